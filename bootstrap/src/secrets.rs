//! Secrets and how they follow from one another: deployment secret → cluster secret → password, private key.
//!
//! HKDF-SHA256 with labelled contexts and a generation number, so that one secret of the operator gives every
//! password, a node that holds one cluster's secret can compute no other's, and a new generation changes all.

use std::fmt;

use hkdf::Hkdf;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

/// Length of a secret in bytes: SHA-256's output, HKDF's natural key length.
pub const SECRET_BYTES: usize = 32;

/// Bytes of a password, shown as twice as many hex characters. 128 bits cannot be guessed.
const PASSWORD_BYTES: usize = 16;

macro_rules! secret_value {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq)]
        pub struct $name([u8; SECRET_BYTES]);

        impl $name {
            /// Takes the secret's bytes.
            pub fn from_bytes(bytes: [u8; SECRET_BYTES]) -> Self {
                $name(bytes)
            }

            /// Reads 64 hex characters.
            ///
            /// # Errors
            /// What is wrong; never the text itself.
            pub fn from_hex(text: &str) -> Result<Self, String> {
                let mut bytes = [0; SECRET_BYTES];
                hex::decode_to_slice(text, &mut bytes)
                    .map_err(|_| "a secret is 64 hexadecimal characters".to_owned())?;
                Ok($name(bytes))
            }

            /// The secret as 64 hex characters.
            pub fn to_hex(&self) -> Zeroizing<String> {
                Zeroizing::new(hex::encode(self.0))
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                self.0.zeroize();
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(redacted)"))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Zeroizing::new(String::deserialize(deserializer)?);
                $name::from_hex(&text).map_err(de::Error::custom)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.to_hex())
            }
        }
    };
}

secret_value!(
    /// The operator's secret of a whole deployment. Serialises to hex: for the node fragment only.
    DeploymentSecret
);
secret_value!(
    /// The secret of one cluster. Serialises to hex: for the node fragment only.
    ClusterSecret
);

fn expand(key: &[u8], info: &str, out: &mut [u8]) {
    // The only error is an output longer than 255 hashes.
    Hkdf::<Sha256>::new(None, key)
        .expand(info.as_bytes(), out)
        .unwrap_or_else(|_| unreachable!());
}

impl DeploymentSecret {
    /// A candidate for a private key; `counter` is for the next, when one is no valid scalar.
    pub(crate) fn key_material(
        &self,
        generation: u32,
        label: &str,
        counter: u32,
    ) -> Zeroizing<[u8; SECRET_BYTES]> {
        key_material(&self.0, generation, label, counter)
    }
}

impl ClusterSecret {
    /// A candidate for a private key, as for the deployment.
    pub(crate) fn key_material(
        &self,
        generation: u32,
        label: &str,
        counter: u32,
    ) -> Zeroizing<[u8; SECRET_BYTES]> {
        key_material(&self.0, generation, label, counter)
    }
}

fn key_material(
    key: &[u8],
    generation: u32,
    label: &str,
    counter: u32,
) -> Zeroizing<[u8; SECRET_BYTES]> {
    let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
    let info = format!("farrow/1/generation/{generation}/key/{counter}/{label}");
    expand(key, &info, bytes.as_mut_slice());
    bytes
}

/// The secret of a cluster.
pub fn cluster_secret(secret: &DeploymentSecret, generation: u32, cluster: &str) -> ClusterSecret {
    let mut bytes = [0; SECRET_BYTES];
    let info = format!("farrow/1/generation/{generation}/cluster/{cluster}");
    expand(&secret.0, &info, &mut bytes);
    let cluster = ClusterSecret(bytes);
    bytes.zeroize();
    cluster
}

/// The password of a user of the deployment itself, which only meta nodes hold: 32 lower-case hex characters.
pub fn deployment_password(secret: &DeploymentSecret, generation: u32, user: &str) -> String {
    derive_password(&secret.0, generation, user)
}

/// The password of a user of a cluster: 32 lower-case hex characters.
pub fn password(secret: &ClusterSecret, generation: u32, user: &str) -> String {
    derive_password(&secret.0, generation, user)
}

fn derive_password(key: &[u8], generation: u32, user: &str) -> String {
    let mut bytes = [0; PASSWORD_BYTES];
    let info = format!("farrow/1/generation/{generation}/password/{user}");
    expand(key, &info, &mut bytes);
    let password = hex::encode(bytes);
    bytes.zeroize();
    password
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with Python's hmac and hashlib, following RFC 5869.
    #[test]
    fn passwords_are_stable() {
        let secret = DeploymentSecret::from_bytes([7; SECRET_BYTES]);
        let cluster = cluster_secret(&secret, 1, "pg-test");
        assert_eq!(
            cluster.to_hex().as_str(),
            "b95cae60b8d2c13d607cb4b6e8635416f2ca6cd56314fbfd3a51840ae78cdba8"
        );
        assert_eq!(
            password(&cluster, 1, "dbuser_test"),
            "0a3ad733011db70b4744af96b63d3dcf"
        );
        assert_ne!(
            password(&cluster, 2, "dbuser_test"),
            "0a3ad733011db70b4744af96b63d3dcf"
        );
        assert_ne!(cluster_secret(&secret, 1, "pg-meta"), cluster);
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = ClusterSecret::from_bytes([0xab; SECRET_BYTES]);
        assert_eq!(format!("{secret:?}"), "ClusterSecret(redacted)");
        let error = DeploymentSecret::from_hex("not hex at all").unwrap_err();
        assert!(!error.contains("not hex"), "{error}");
    }
}
