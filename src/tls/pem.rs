//! Reading PEM files, with what to do about those that cannot be read.

use std::io::ErrorKind;
use std::path::Path;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{BadFile, Role};

/// The certificates of a file, at least one.
pub(super) fn certificates(path: &Path, role: Role) -> Result<Vec<CertificateDer<'static>>, BadFile> {
    let text = text(path, role)?;
    let all: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| bad(path, role, &format!("it is no valid PEM: {error}"), "copy the file again"))?;
    if all.is_empty() {
        let help = if has(&text, "PRIVATE KEY-----") {
            "this is a key: `certificate` and `key` may be mixed up"
        } else {
            "a PEM file begins with -----BEGIN CERTIFICATE-----; DER is turned into it by openssl x509 -inform der"
        };
        return Err(bad(path, role, "there is no certificate in it", help));
    }
    Ok(all)
}

/// The first private key of a file.
pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, BadFile> {
    let text = text(path, Role::Key)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound if has(&text, "ENCRYPTED PRIVATE KEY-----") => {
            let help = "take the passphrase off: openssl pkey -in KEY -out NEW";
            bad(path, Role::Key, "the key in it is encrypted", help)
        }
        pem::Error::NoItemsFound if has(&text, "CERTIFICATE-----") => {
            let help = "this is a certificate: `certificate` and `key` may be mixed up";
            bad(path, Role::Key, "there is no private key in it", help)
        }
        pem::Error::NoItemsFound => {
            let help = "a PEM file of a key begins with -----BEGIN PRIVATE KEY-----";
            bad(path, Role::Key, "there is no private key in it", help)
        }
        error => bad(path, Role::Key, &format!("it is no valid PEM: {error}"), "copy the file again"),
    })
}

pub(super) fn bad(path: &Path, role: Role, why: &str, help: &str) -> BadFile {
    BadFile { path: path.to_owned(), role, why: why.to_owned(), help: help.to_owned() }
}

fn text(path: &Path, role: Role) -> Result<Vec<u8>, BadFile> {
    std::fs::read(path).map_err(|error| {
        let help = match error.kind() {
            ErrorKind::NotFound => "a path that does not begin with `/` starts in the folder that tokenweir runs in",
            ErrorKind::PermissionDenied => "let the user that tokenweir runs as read it",
            _ => "name a PEM file",
        };
        bad(path, role, &error.to_string(), help)
    })
}

fn has(text: &[u8], part: &str) -> bool {
    memchr::memmem::find(text, part.as_bytes()).is_some()
}
