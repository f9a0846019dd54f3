use std::fs;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair};

use super::*;

/// Writes files into a folder of one test's own and reads them as a certificate and its key.
fn load_from_files(test: &str, chain: &str, key: &str) -> Result<TlsStore, TlsFileError> {
    let folder = std::env::temp_dir().join(format!("tokenweir-{test}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let (chains, keys) = (vec![folder.join("chain")], vec![folder.join("key")]);
    fs::write(&chains[0], chain).unwrap();
    fs::write(&keys[0], key).unwrap();
    let keyring = TlsStore::read(&ServerCertificates { chains, keys }, &[]);
    fs::remove_dir_all(&folder).unwrap();
    keyring
}

#[test]
fn what_is_wrong_with_a_file_is_told_with_what_to_do() {
    let key = KeyPair::generate().unwrap();
    let chain = CertificateParams::new(["a.test".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let (other, key) = (KeyPair::generate().unwrap().serialize_pem(), key.serialize_pem());
    assert!(load_from_files("good", &chain, &key).is_ok());
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let cut = chain.replace("-----END CERTIFICATE-----", "");
    for (test, chain, key, file, wanted) in [
        ("mixed", &key, &chain, "chain", "there is no certificate in it|`certificate` and `key` may be mixed up"),
        ("empty", &String::new(), &key, "chain", "there is no certificate in it|openssl x509 -inform der"),
        ("cut", &cut, &key, "chain", "it is no valid PEM|copy the file again"),
        ("twice", &chain, &chain, "key", "there is no private key in it|may be mixed up"),
        ("locked", &chain, &encrypted, "key", "the key in it is encrypted|openssl pkey"),
        ("other", &chain, &other, "key", "it is not the key of|openssl x509 -pubkey"),
        ("blank", &chain, &String::new(), "key", "there is no private key in it|BEGIN PRIVATE KEY"),
    ] {
        let bad = load_from_files(test, chain, key).err().unwrap_or_else(|| panic!("{test} is read"));
        let (why, help) = wanted.split_once('|').unwrap();
        assert!(
            bad.path.ends_with(file) && bad.to_string().contains(why) && bad.help.contains(help),
            "{test}: {bad:?}"
        );
    }
}

#[test]
fn a_file_that_is_not_there_is_told_by_its_name() {
    let mut keyring = TlsStore::default();
    let bad = keyring.add_trust(&TrustRoots::File("/nowhere/ca.pem".into())).unwrap_err();
    assert_eq!(bad.path, Path::new("/nowhere/ca.pem"));
    assert!(bad.to_string().starts_with("cannot use /nowhere/ca.pem as trusted issuers: No such file"), "{bad}");
}

#[test]
fn the_keyring_before_serves_those_that_have_just_left() {
    let mut old = TlsStore::default();
    old.add_trust(&TrustRoots::Insecure).unwrap();
    let new = TlsStore::default().inherit_from(&old);
    assert!(new.client_config(&TrustRoots::Insecure).is_some());
    let newer = TlsStore::default().inherit_from(&new);
    assert!(newer.client_config(&TrustRoots::Insecure).is_none(), "and not for ever");
}

#[test]
fn what_a_handshake_failed_of_is_found_behind_other_errors() {
    let tls = || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
    let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls()));
    for error in [io::Error::other(tls()), wrapped] {
        assert!(explain_handshake_error(&error).unwrap().contains("`tls_ca`"), "{error}");
    }
    assert_eq!(explain_handshake_error(&io::Error::other("refused")), None);
}
