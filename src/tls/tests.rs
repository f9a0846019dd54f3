use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

use rcgen::{CertificateParams, KeyPair};

use super::{TlsFileError, TlsStore, explain_handshake_error};
use crate::fleet::TrustRoots;
use crate::routes::ServerCertificates;

/// Writes the two files to a folder of the test and reads them as a certificate and its key.
fn load_from_files(test: &str, chain: &str, key: &str) -> Result<TlsStore, TlsFileError> {
    let folder = std::env::temp_dir().join(format!("tokenweir-{test}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let (chains, keys) = (vec![folder.join("chain")], vec![folder.join("key")]);
    fs::write(&chains[0], chain).unwrap();
    fs::write(&keys[0], key).unwrap();
    let store = TlsStore::read(&ServerCertificates { chains, keys }, &Arc::default(), &[]);
    fs::remove_dir_all(&folder).unwrap();
    store
}

#[test]
fn bad_file_error_has_reason_and_help() {
    let key = KeyPair::generate().unwrap();
    let chain = CertificateParams::new(["a.test".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let (other, key) = (KeyPair::generate().unwrap().serialize_pem(), key.serialize_pem());
    assert!(load_from_files("good", &chain, &key).is_ok());
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let cut = chain.replace("-----END CERTIFICATE-----", "");
    for (test, chain, key, file, expected) in [
        ("mixed", &key, &chain, "chain", "there is no certificate in it|`certificate` and `key` may be mixed up"),
        ("empty", &String::new(), &key, "chain", "there is no certificate in it|openssl x509 -inform der"),
        ("cut", &cut, &key, "chain", "it is no valid PEM|copy the file again"),
        ("twice", &chain, &chain, "key", "there is no private key in it|may be mixed up"),
        ("locked", &chain, &encrypted, "key", "the key in it is encrypted|openssl pkey"),
        ("other", &chain, &other, "key", "it is not the key of|openssl x509 -pubkey"),
        ("blank", &chain, &String::new(), "key", "there is no private key in it|BEGIN PRIVATE KEY"),
    ] {
        let error = load_from_files(test, chain, key).err().unwrap_or_else(|| panic!("{test} is accepted"));
        let (reason, help) = expected.split_once('|').unwrap();
        assert!(
            error.path.ends_with(file) && error.to_string().contains(reason) && error.help.contains(help),
            "{test}: {error:?}"
        );
    }
}

#[test]
fn missing_file_error_names_the_file() {
    let mut store = TlsStore::default();
    let error = store.add_trust(&TrustRoots::File("/nowhere/ca.pem".into())).unwrap_err();
    assert_eq!(error.path, Path::new("/nowhere/ca.pem"));
    assert!(error.to_string().starts_with("cannot use /nowhere/ca.pem as trusted issuers: No such file"), "{error}");
}

#[test]
fn previous_store_serves_replicas_that_just_left() {
    let mut previous = TlsStore::default();
    previous.add_trust(&TrustRoots::Insecure).unwrap();
    let new = TlsStore::default().inherit_from(&previous);
    assert!(new.client_config(&TrustRoots::Insecure).is_some());
    let newer = TlsStore::default().inherit_from(&new);
    assert!(newer.client_config(&TrustRoots::Insecure).is_none(), "only the previous store is kept");
}

#[test]
fn handshake_error_is_found_among_sources() {
    let tls = || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
    let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls()));
    for error in [io::Error::other(tls()), wrapped] {
        assert!(explain_handshake_error(&error).unwrap().contains("`tls_ca`"), "{error}");
    }
    assert_eq!(explain_handshake_error(&io::Error::other("refused")), None);
}
