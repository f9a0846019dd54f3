//! The cryptography that all configurations use.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};

/// Why the versions and cipher suites of a configuration are always supported: they are the provider's own.
pub(super) const PROTOCOLS_SUPPORTED: &str = "ring has suites for TLS 1.2 and 1.3";

pub(super) fn crypto_provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
