//! What may be typed after `farrow cache`.

use clap::{Args, Subcommand};

use super::parse_size;

/// Arguments of `farrow cache`.
#[derive(Debug, Args)]
pub struct CacheArgs {
    /// What to do (default: list what is there)
    #[command(subcommand)]
    pub verb: Option<CacheVerb>,
}

/// `farrow cache …`
#[derive(Debug, Clone, Subcommand)]
pub enum CacheVerb {
    /// Remove what was used longest ago; whatever is removed is made or fetched again when it is needed
    Gc(CacheGcArgs),
    /// Add to a shared cache what it lacks of this one: package files, parts of images, trees of packages
    Push(CachePushArgs),
}

/// Arguments of `farrow cache push`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  farrow cache push /srv/farrow-cache
  farrow cache push s3://builds/farrow --kind part,base
  farrow image build pigsty --cache-from s3://builds/farrow --cache-key signing-key.asc")]
pub struct CachePushArgs {
    /// Where to: DIR, file:///DIR or s3://BUCKET/PREFIX
    pub url: String,
    /// Only these kinds
    #[arg(long, value_name = "KIND,…", value_delimiter = ',', value_enum)]
    pub kind: Vec<SharedKind>,
    /// Only say what is missing there
    #[arg(long)]
    pub dry_run: bool,
}

/// What can be shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SharedKind {
    /// Package files.
    Download,
    /// File systems of images.
    Part,
    /// The trees that packages make.
    Base,
}

impl SharedKind {
    /// Its name among the kinds of the cache.
    pub fn name(self) -> &'static str {
        match self {
            SharedKind::Download => "download",
            SharedKind::Part => "part",
            SharedKind::Base => "base",
        }
    }
}

/// Arguments of `farrow cache gc`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  farrow cache gc                 what was not used for 30 days
  farrow cache gc --keep 20G      as much as is needed to have at most 20 GiB
  farrow cache gc --older 7       what was not used for a week")]
pub struct CacheGcArgs {
    /// Keep at most so much, such as 20G
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub keep: Option<u64>,
    /// Remove what was not used for so many days (default: 30, unless --keep is given)
    #[arg(long, value_name = "DAYS")]
    pub older: Option<u64>,
    /// Wait until no other run of farrow uses the cache, instead of failing
    #[arg(long)]
    pub wait: bool,
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
}
