//! Reads PEM files. Errors say how to fix a file.

use std::io::ErrorKind;
use std::path::Path;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::file_error::{FileRole, TlsFileError};

/// Reads the certificates of a file, at least one.
///
/// *Errors*: the file cannot be read, is no valid PEM, or has no certificate.
pub(super) fn read_certificates(path: &Path, role: FileRole) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let text = read_file(path, role)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|error| {
        TlsFileError::new(path, role, &format!("it is no valid PEM: {error}"), "copy the file again")
    })?;
    if certificates.is_empty() {
        let help = if contains_text(&text, "PRIVATE KEY-----") {
            "this is a key: `certificate` and `key` may be mixed up"
        } else {
            "a PEM file begins with -----BEGIN CERTIFICATE-----; convert DER with openssl x509 -inform der"
        };
        return Err(TlsFileError::new(path, role, "there is no certificate in it", help));
    }
    Ok(certificates)
}

/// Reads the first private key of a file.
///
/// *Errors*: the file cannot be read, is no valid PEM, or has no key that is not encrypted.
pub(super) fn read_private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsFileError> {
    let text = read_file(path, FileRole::Key)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound if contains_text(&text, "ENCRYPTED PRIVATE KEY-----") => {
            let help = "remove the passphrase: openssl pkey -in KEY -out NEW";
            TlsFileError::new(path, FileRole::Key, "the key in it is encrypted", help)
        }
        pem::Error::NoItemsFound if contains_text(&text, "CERTIFICATE-----") => {
            let help = "this is a certificate: `certificate` and `key` may be mixed up";
            TlsFileError::new(path, FileRole::Key, "there is no private key in it", help)
        }
        pem::Error::NoItemsFound => {
            let help = "a PEM file of a key begins with -----BEGIN PRIVATE KEY-----";
            TlsFileError::new(path, FileRole::Key, "there is no private key in it", help)
        }
        error => TlsFileError::new(path, FileRole::Key, &format!("it is no valid PEM: {error}"), "copy the file again"),
    })
}

fn read_file(path: &Path, role: FileRole) -> Result<Vec<u8>, TlsFileError> {
    std::fs::read(path).map_err(|error| {
        let help = match error.kind() {
            ErrorKind::NotFound => "a relative path starts in the working directory of tokenweir",
            ErrorKind::PermissionDenied => "give read permission to the user that runs tokenweir",
            _ => "name a PEM file",
        };
        TlsFileError::new(path, role, &error.to_string(), help)
    })
}

fn contains_text(text: &[u8], part: &str) -> bool {
    memchr::memmem::find(text, part.as_bytes()).is_some()
}
