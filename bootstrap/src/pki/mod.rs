//! Certificates: one authority per deployment, one intermediate per cluster, leaves that the nodes mint for themselves.
//!
//! Everything is a function of secrets, generation and deployment: keys by HKDF, signatures by RFC 6979, serial numbers by
//! hash, validity fixed. So a second boot renders the same bytes, and nothing has to be stored or transported but what
//! `farrow seed` writes.
//!
//! What a node may sign follows from what it holds. The deployment secret gives the authority itself. A cluster's secret
//! gives only the key of the cluster's intermediate certificate, whose name constraints (RFC 5280 §4.2.1.10) permit the
//! cluster's own DNS names **and** addresses: DNS alone would not bind addresses. There is no directoryName constraint,
//! since Go refuses a chain with one, and no leaf has a common name: nobody is authorised by one, and etcd's JSON gateway
//! rejects client certificates that carry one.

//!
//! Name constraints have a gap: OpenSSL does not apply them to a common name where there is an alternative name (or no
//! dot), but HAProxy's `verifyhost` and, for addresses and short names, libpq accept a common name. So what is inside the
//! platform trusts not the authority but the one issuer that it talks to: [`Mint::anchor`].

mod der;
mod issue;
mod keys;
mod mint;
mod names;
#[cfg(test)]
mod tests;

pub use issue::{ca_certificate, cluster_certificate, meta_ca_certificate};
pub use mint::{Mint, check_fragment};
pub use names::Scope;
pub(crate) use names::{covering_cluster, overlap};
