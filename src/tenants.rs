//! Layer 1: the tenants that may send requests, by the hashes of their API keys.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq as _;
use thiserror::Error;

use crate::units::ModelNames;

/// The prefix of a written hash. It distinguishes a hash from a key in plain text.
const DIGEST_PREFIX: &str = "sha256:";
const DIGEST_BYTES: usize = 32;

/// The SHA-256 hash of a secret. The secret is not kept, and the hash is printed in a configuration only.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyDigest([u8; DIGEST_BYTES]);

/// A text that is not a hash. The error does not contain the text.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a hash is `sha256:` and 64 hexadecimal digits")]
pub struct KeyDigestError;

/// The owner of an API key, and the models that it may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// The tenant's name in logs, metrics and headers, unique among tenants.
    pub name: Arc<str>,
    /// The models that the tenant may use, as clients write them; `None` for all.
    pub models: Option<ModelNames>,
    digest: KeyDigest,
}

/// All tenants. If it is empty, requests need no key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantTable(Vec<Arc<Tenant>>);

impl KeyDigest {
    /// Returns the hash of a secret.
    pub fn from_secret(secret: &[u8]) -> Self {
        let mut bytes = [0; DIGEST_BYTES];
        for (to, from) in bytes.iter_mut().zip(digest(&SHA256, secret).as_ref()) {
            *to = *from;
        }
        Self(bytes)
    }

    /// Returns the hash as a configuration has it: `sha256:` and 64 hexadecimal digits.
    pub fn to_config_text(&self) -> String {
        let digits = self.0.iter().map(|byte| format!("{byte:02x}"));
        std::iter::once(DIGEST_PREFIX.to_owned()).chain(digits).collect()
    }

    /// Returns the bytes of the hash.
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns whether it is the hash of `secret`, in constant time.
    pub fn matches_secret(&self, secret: &[u8]) -> bool {
        self.constant_time_eq(&Self::from_secret(secret))
    }

    fn constant_time_eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl FromStr for KeyDigest {
    type Err = KeyDigestError;

    /// Parses `sha256:` and 64 hexadecimal digits.
    ///
    /// *Errors*: the text is anything else.
    fn from_str(text: &str) -> Result<Self, KeyDigestError> {
        let digits = text.strip_prefix(DIGEST_PREFIX).ok_or(KeyDigestError)?.as_bytes();
        if digits.len() != 2 * DIGEST_BYTES {
            return Err(KeyDigestError);
        }
        let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|n| u8::try_from(n).ok()).ok_or(KeyDigestError);
        let mut bytes = [0; DIGEST_BYTES];
        for (to, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let [high, low] = pair else { return Err(KeyDigestError) };
            *to = digit(high)? << 4 | digit(low)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(..)")
    }
}

impl Tenant {
    /// Returns the tenant of the key with this hash.
    pub fn new(name: impl Into<Arc<str>>, digest: KeyDigest, models: Option<ModelNames>) -> Self {
        Self { name: name.into(), models, digest }
    }

    /// Returns whether the tenant may use `model`.
    pub fn can_use_model(&self, model: &str) -> bool {
        self.models.as_ref().is_none_or(|models| models.find(model).is_some())
    }

    /// Returns whether both tenants have the same key.
    pub fn has_same_key(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl TenantTable {
    /// Returns a table of `tenants`, in their order.
    pub fn new(tenants: impl IntoIterator<Item = Tenant>) -> Self {
        Self(tenants.into_iter().map(Arc::new).collect())
    }

    /// Returns whether there are no tenants, so that requests need no key.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the names of the tenants.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|tenant| &*tenant.name)
    }

    /// Returns the tenant of `key`.
    ///
    /// *Cost*: one hash of `key` and a comparison with the hash of every tenant, so that the time reveals nothing about
    /// a key.
    pub fn find_by_key(&self, key: &[u8]) -> Option<&Arc<Tenant>> {
        let digest = KeyDigest::from_secret(key);
        let mut found = None;
        for tenant in &self.0 {
            if tenant.digest.constant_time_eq(&digest) {
                found = Some(tenant);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hash of `abc`, from FIPS 180-2.
    const ABC_DIGEST: &str = "sha256:BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015ad";

    fn new_tenant(name: &str, key: &str) -> Tenant {
        Tenant::new(name, KeyDigest::from_secret(key.as_bytes()), None)
    }

    #[test]
    fn hash_is_read_from_its_text() {
        let digest = KeyDigest::from_secret(b"abc");
        assert_eq!(digest.to_config_text(), ABC_DIGEST.to_ascii_lowercase());
        assert_eq!(digest.to_config_text().parse(), Ok(digest));
    }

    #[test]
    fn written_hash_matches_its_key_only() {
        let digest: KeyDigest = ABC_DIGEST.parse().unwrap();
        assert!(digest.matches_secret(b"abc") && !digest.matches_secret(b"abd") && !digest.matches_secret(b""));
        for bad in [
            "",
            "sha256:",
            &ABC_DIGEST[..70],
            &ABC_DIGEST[7..],
            &format!("{ABC_DIGEST}0"),
            &ABC_DIGEST.replace("BA", "+A"),
            "sha512:00",
        ] {
            assert_eq!(bad.parse::<KeyDigest>(), Err(KeyDigestError), "{bad}");
        }
    }

    #[test]
    fn each_key_finds_its_tenant_and_others_find_none() {
        let tenants = TenantTable::new([new_tenant("a", "one"), new_tenant("b", "two"), new_tenant("c", "three")]);
        for (key, name) in [("one", Some("a")), ("two", Some("b")), ("three", Some("c")), ("", None), ("onе", None)] {
            assert_eq!(tenants.find_by_key(key.as_bytes()).map(|tenant| &*tenant.name), name, "{key}");
        }
        assert!(TenantTable::default().find_by_key(b"one").is_none());
    }

    #[test]
    fn tenant_with_a_list_may_use_listed_models_only() {
        let listed = Tenant { models: Some(["m".into()].into_iter().collect()), ..new_tenant("a", "one") };
        assert!(listed.can_use_model("m") && !listed.can_use_model("M") && !listed.can_use_model(""));
        assert!(new_tenant("a", "one").can_use_model("anything"));
    }

    #[test]
    fn debug_output_has_neither_key_nor_hash() {
        let shown = format!("{:?}", TenantTable::new([Tenant::new("a", ABC_DIGEST.parse().unwrap(), None)]));
        assert!(shown.contains("\"a\"") && !shown.to_lowercase().contains("ba78"), "{shown}");
    }
}
