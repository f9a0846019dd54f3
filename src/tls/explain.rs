//! Explanations of failed handshakes, with a fix.

use std::error::Error;
use std::io;

use rustls::{CertificateError, Error as TlsError, InvalidMessage};

/// Returns what failed in a handshake with a replica; `None` if `error` and its sources are no TLS error.
pub fn explain_handshake_error(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let inner = inner.map(|inner| inner as &(dyn Error + 'static));
        if let Some(tls) = inner.unwrap_or(error).downcast_ref::<TlsError>() {
            return Some(describe_tls_error(tls));
        }
        next = inner.or_else(|| error.source());
    }
    None
}

fn describe_tls_error(error: &TlsError) -> String {
    match error {
        TlsError::InvalidCertificate(error) => describe_certificate_error(error),
        TlsError::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it does not speak TLS: write `http://` for a plain connection".to_owned()
        }
        error => format!("TLS handshake failed: {error}"),
    }
}

fn describe_certificate_error(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => "its certificate is by an issuer that is not trusted: name the issuer's \
                                            file in the pool's `tls_ca`"
            .to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<&str> = presented.iter().map(|name| inner_name(name)).collect();
            let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
            format!(
                "its certificate is for {names}, not for {}: set the pool's `tls_name` to the name in the certificate",
                expected.to_str()
            )
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired: renew it, or set this machine's clock".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: set this machine's clock, or that of the certificate's issuer".to_owned()
        }
        // webpki's own error has no variant here.
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "its certificate is an issuer's own: make one for the server, with openssl req -x509 by -addext \
             basicConstraints=critical,CA:FALSE"
                .to_owned()
        }
        error => format!("its certificate cannot be verified: {error}"),
    }
}

/// Returns `a.test` of `DnsName("a.test")`, the library's notation.
fn inner_name(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner);
    inner.trim_end_matches(')').trim_matches('"')
}
