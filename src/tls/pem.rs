//! Reading PEM files, with what to do about those that cannot be read.

use std::io::ErrorKind;
use std::path::Path;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{FileRole, TlsFileError};

/// The certificates of a file, at least one.
pub(super) fn read_certificates(path: &Path, role: FileRole) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let text = read_file(path, role)?;
    let all: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| file_error(path, role, &format!("it is no valid PEM: {error}"), "copy the file again"))?;
    if all.is_empty() {
        let help = if contains_text(&text, "PRIVATE KEY-----") {
            "this is a key: `certificate` and `key` may be mixed up"
        } else {
            "a PEM file begins with -----BEGIN CERTIFICATE-----; DER is turned into it by openssl x509 -inform der"
        };
        return Err(file_error(path, role, "there is no certificate in it", help));
    }
    Ok(all)
}

/// The first private key of a file.
pub(super) fn read_private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsFileError> {
    let text = read_file(path, FileRole::Key)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound if contains_text(&text, "ENCRYPTED PRIVATE KEY-----") => {
            let help = "take the passphrase off: openssl pkey -in KEY -out NEW";
            file_error(path, FileRole::Key, "the key in it is encrypted", help)
        }
        pem::Error::NoItemsFound if contains_text(&text, "CERTIFICATE-----") => {
            let help = "this is a certificate: `certificate` and `key` may be mixed up";
            file_error(path, FileRole::Key, "there is no private key in it", help)
        }
        pem::Error::NoItemsFound => {
            let help = "a PEM file of a key begins with -----BEGIN PRIVATE KEY-----";
            file_error(path, FileRole::Key, "there is no private key in it", help)
        }
        error => file_error(path, FileRole::Key, &format!("it is no valid PEM: {error}"), "copy the file again"),
    })
}

pub(super) fn file_error(path: &Path, role: FileRole, why: &str, help: &str) -> TlsFileError {
    TlsFileError { path: path.to_owned(), role, reason: why.to_owned(), help: help.to_owned() }
}

fn read_file(path: &Path, role: FileRole) -> Result<Vec<u8>, TlsFileError> {
    std::fs::read(path).map_err(|error| {
        let help = match error.kind() {
            ErrorKind::NotFound => "a path that does not begin with `/` starts in the folder that tokenweir runs in",
            ErrorKind::PermissionDenied => "let the user that tokenweir runs as read it",
            _ => "name a PEM file",
        };
        file_error(path, role, &error.to_string(), help)
    })
}

fn contains_text(text: &[u8], part: &str) -> bool {
    memchr::memmem::find(text, part.as_bytes()).is_some()
}
