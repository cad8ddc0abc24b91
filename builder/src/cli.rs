//! The command line: what may be typed, with its help.

mod boot;
mod cache;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::recipe::{ImageFormat, UpstreamKind};

pub use boot::{BootDisk, ImageBootArgs};
pub use cache::{CacheArgs, CacheGcArgs, CachePushArgs, CacheVerb};

/// Bakes offline package repositories and immutable machine images that configure themselves at first boot.
#[derive(Debug, Parser)]
#[command(name = "farrow", version, propagate_version = true, after_help = EXAMPLES)]
pub struct Cli {
    /// Options that every command takes.
    #[command(flatten)]
    pub global: GlobalOptions,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "Examples:
  farrow up                                    build everything and boot two machines
  farrow lock recipes/pigsty.toml              choose the exact packages of a recipe
  farrow repo build recipes/pigsty.toml        make its offline repository and tarball
  farrow image build recipes/pigsty.toml       bake its image from that repository alone
  farrow explain recipes/deployments/two-node.toml --node meta";

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
pub struct GlobalOptions {
    /// Print the result as one JSON document on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Print progress as JSON lines on standard error
    #[arg(long, global = true)]
    pub events: bool,
    /// Say more; may be given twice
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Open no connection to a package archive
    #[arg(long, global = true)]
    pub offline: bool,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
    /// Where an archive is mirrored, as ARCHIVE=URL[,URL…]; may be repeated, the next is asked when one fails
    #[arg(long, global = true, value_name = "ARCHIVE=URL", value_parser = parse_mirror)]
    pub mirror: Vec<(String, String)>,
    /// A folder with static farrow-bootstrap and farrow-init for the image's processor, instead of those inside farrow
    #[arg(long, global = true, value_name = "DIR")]
    pub bootstrap_dir: Option<PathBuf>,
    /// Download at most this many bytes a second, such as 500K or 10M
    #[arg(long, global = true, value_name = "RATE", env = "FARROW_LIMIT_RATE", value_parser = offline_repo::http::parse_rate)]
    pub limit_rate: Option<std::num::NonZeroU64>,
    /// Look for what the cache lacks in a shared cache first: DIR, file:///DIR, https://HOST/PATH or s3://BUCKET/PREFIX
    #[arg(long, global = true, value_name = "URL", env = "FARROW_CACHE_FROM")]
    pub cache_from: Option<String>,
    /// A public key, one of which must have signed what is taken from there beside package files; may be repeated
    #[arg(long, global = true, value_name = "FILE", env = "FARROW_CACHE_KEY")]
    pub cache_key: Vec<PathBuf>,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

fn parse_mirror(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((archive, url)) if !archive.is_empty() && url.contains("://") => {
            Ok((archive.into(), url.into()))
        }
        _ => Err("expected ARCHIVE=URL, such as debian=http://mirror.example/debian".into()),
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Lock, repository, image, machines: the whole way, then the endpoints
    Up(UpArgs),
    /// Write a recipe and a deployment to start from
    New {
        /// Folder to make
        dir: PathBuf,
    },
    /// Choose the exact version of every package of a recipe
    Lock(LockArgs),
    /// Print the closure of any set of packages
    Resolve(ResolveArgs),
    /// Offline package repositories
    #[command(subcommand)]
    Repo(RepoCommand),
    /// Machine images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Steer the machines of a running `farrow up`
    Machine(MachineArgs),
    /// Write each machine's metadata: user-data, meta-data, network-config and a seed image
    Seed(SeedArgs),
    /// Rehearse the first boot of a machine of a deployment
    Explain(ExplainArgs),
    /// List what is in the cache, bound it, or share it
    Cache(CacheArgs),
    /// Write out the static farrow-bootstrap
    Bootstrap {
        /// File to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Run a program of the tools tree, without network
    Tools(ToolsArgs),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages
    Man {
        /// Folder to write them to
        dir: PathBuf,
    },
}

impl Command {
    /// Whether the command makes things that an interruption must not leave half-done. `tools` gives the terminal to
    /// a program, which a supervisor in between would disturb.
    pub fn is_supervised(&self) -> bool {
        !matches!(
            self,
            Command::Machine(_)
                | Command::Tools(_)
                | Command::Completions { .. }
                | Command::Man { .. }
        )
    }

    /// Whether what is in the cache must stay there while the command runs. A server of files may run for months and
    /// takes nothing from it.
    pub fn uses_cache(&self) -> bool {
        match self {
            Command::Repo(command) => !matches!(command, RepoCommand::Serve { .. }),
            Command::Cache(args) => matches!(args.verb, Some(CacheVerb::Push(_))),
            other => matches!(
                other,
                Command::Up(_)
                    | Command::Lock(_)
                    | Command::Resolve(_)
                    | Command::Image(_)
                    | Command::Tools(_)
            ),
        }
    }
}

/// Arguments of `farrow up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Deployment: a file, or the name of one that farrow ships
    #[arg(default_value = "two-node")]
    pub deployment: String,
    /// Recipe of the image: a file, or the name of one that farrow ships
    #[arg(long, default_value = "recipes/pigsty.toml")]
    pub recipe: String,
    /// Where repository, image and machines go
    #[arg(long, value_name = "DIR", default_value = "out")]
    pub out: PathBuf,
    /// Shut the machines down and exit once all are ready
    #[arg(long)]
    pub until_ready: bool,
    /// How long the machines may take to become ready
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
    /// Run the machines as containers instead of in QEMU: the same root, ready in seconds; for root only
    #[arg(long)]
    pub containers: bool,
    /// Switch machines on later than the others, as NODE=SECONDS,…
    #[arg(long, value_name = "NODE=SECONDS,…", value_delimiter = ',', value_parser = parse_delay)]
    pub start_delays: Vec<(String, std::time::Duration)>,
    /// Keep the disks of the last run's machines instead of starting from the image
    #[arg(long)]
    pub keep_disks: bool,
    /// Run a shell command on a node once it is ready and report its result, as NODE=COMMAND
    #[arg(long, value_name = "NODE=COMMAND", value_parser = parse_check)]
    pub check: Vec<(String, String)>,
}

fn parse_check(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((node, command)) if !node.is_empty() && !command.is_empty() => Ok((node.into(), command.into())),
        _ => Err("expected NODE=COMMAND, such as meta='promtool check config /etc/prometheus/prometheus.yml'".into()),
    }
}

fn parse_delay(text: &str) -> Result<(String, std::time::Duration), String> {
    let parsed = text.split_once('=').and_then(|(node, seconds)| {
        let seconds = std::time::Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?;
        Some((node.to_owned(), seconds))
    });
    parsed.ok_or_else(|| "expected NODE=SECONDS, such as meta=7.5".into())
}

/// Arguments of `farrow lock`.
#[derive(Debug, Args)]
pub struct LockArgs {
    /// Recipe: a file, or the name of one that farrow ships
    pub recipe: String,
    /// Take the newest versions: of these packages and what they then need, or of all when none is named
    #[arg(long, value_name = "PACKAGE", num_args = 0..)]
    pub upgrade: Option<Vec<String>>,
    /// Say why a package is in the lock
    #[arg(long, value_name = "PACKAGE")]
    pub why: Option<String>,
    /// Only this target of the recipe (default: its own platform and all targets)
    #[arg(long = "for", value_name = "TARGET")]
    pub target: Option<String>,
    /// The lock's file (default: beside the recipe)
    #[arg(long, value_name = "FILE")]
    pub lock: Option<PathBuf>,
}

/// Arguments of `farrow resolve`.
#[derive(Debug, Args)]
#[command(after_help = RESOLVE_EXAMPLES)]
pub struct ResolveArgs {
    /// Packages; of RPM packages anything that they provide
    #[arg(required = true)]
    pub packages: Vec<String>,
    /// Take archives and architecture from a recipe: a file, or the name of one that farrow ships
    #[arg(long, value_name = "RECIPE", conflicts_with_all = ["archive", "kind", "suite", "component", "key"])]
    pub recipe: Option<String>,
    /// Name of the archive; other ones than debian and debian-security need --key
    #[arg(long, default_value = "debian")]
    pub archive: String,
    /// Kind of its packages
    #[arg(long, value_enum, default_value = "deb")]
    pub kind: UpstreamKind,
    /// Suite of the archive (default: trixie); of RPM packages the folder that holds repodata/ (default: the archive itself)
    #[arg(long)]
    pub suite: Option<String>,
    /// Component of the suite (default: main)
    #[arg(long)]
    pub component: Vec<String>,
    /// A public key, one of which must have signed the archive's indexes
    #[arg(long, value_name = "FILE")]
    pub key: Vec<PathBuf>,
    /// Architecture as the distribution names it (default: amd64, of RPM packages x86_64, or the recipe's)
    #[arg(long)]
    pub arch: Option<String>,
    /// Follow Recommends too
    #[arg(long)]
    pub recommends: bool,
}

const RESOLVE_EXAMPLES: &str = "Examples:
  farrow resolve postgresql patroni --suite trixie --json
  farrow resolve nginx --recipe el9.toml --arch aarch64
  farrow resolve nginx --kind rpm --archive vendor --mirror vendor=https://example.org/el9 --key vendor.asc";

/// `farrow repo …`
#[derive(Debug, Subcommand)]
pub enum RepoCommand {
    /// Make the offline repository and the tarball of a recipe
    Build(RepoBuildArgs),
    /// Check every file of a repository or tarball against its marker
    Verify(VerifyArgs),
    /// Print a repository's bill of materials
    Sbom {
        /// A repository folder
        path: PathBuf,
        /// Which format
        #[arg(long, value_enum, default_value = "spdx")]
        format: SbomFormat,
    },
    /// Serve a repository, or all in a folder, over HTTP: static files only
    #[command(after_help = "Examples:
  farrow repo serve out/repo/pigsty
  farrow repo serve /www --listen 10.0.0.5:80")]
    Serve {
        /// A repository folder, or a folder of repositories
        path: PathBuf,
        /// Address and port; port 0 takes a free one
        #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
        listen: std::net::SocketAddr,
    },
    /// List the packages in which a repository differs from an older one
    Diff {
        /// The old repository: a folder or a tarball
        old: PathBuf,
        /// The new one
        new: PathBuf,
    },
    /// Unpack a tarball below a folder, once all of it is proved, and install the packages of a role from it
    Install(InstallArgs),
}

/// Arguments of `farrow repo install`.
#[derive(Debug, Args)]
#[command(after_help = INSTALL_EXAMPLES)]
pub struct InstallArgs {
    /// The tarball
    pub tarball: PathBuf,
    /// The folder that holds repositories
    #[arg(long, value_name = "DIR", default_value = "/www")]
    pub target: PathBuf,
    /// Also install the packages of a group of its recipe, with apt, from this repository alone; starts nothing
    #[arg(long, value_name = "GROUP,…", value_delimiter = ',')]
    pub group: Vec<String>,
    /// What a delta continues: a repository or tarball (default: the repository that is installed)
    #[arg(long, value_name = "OLD")]
    pub since: Option<PathBuf>,
}

const INSTALL_EXAMPLES: &str = "Examples:
  farrow repo install pigsty-v0.1.0.d13.x86_64.tar.gz                 only the repository, to /www/pigsty
  farrow repo install pigsty-v0.1.0.d13.x86_64.tar.gz --group meta    and the packages of a meta node";

/// A format of bills of materials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SbomFormat {
    /// SPDX 2.3 JSON.
    Spdx,
    /// CycloneDX 1.6 JSON.
    Cyclonedx,
}

/// Arguments of `farrow repo build`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  farrow repo build recipes/pigsty.toml
  farrow repo build pigsty --with-tools --split 4G
  farrow repo build pigsty --since pigsty-v0.1.0.d13.x86_64.tar.gz")]
pub struct RepoBuildArgs {
    /// Recipe: a file, or the name of one that farrow ships
    pub recipe: String,
    /// Where they go
    #[arg(long, value_name = "DIR", default_value = "out")]
    pub out: PathBuf,
    /// The lock's file (default: beside the recipe)
    #[arg(long, value_name = "FILE")]
    pub lock: Option<PathBuf>,
    /// For this target of the recipe instead of its own platform
    #[arg(long = "for", value_name = "TARGET")]
    pub target: Option<String>,
    /// Add the packages of the tools tree, so that images are baked from the repository alone
    #[arg(long)]
    pub with_tools: bool,
    /// Write the tarball in volumes of at most this size
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub split: Option<u64>,
    /// Put into the tarball only what this older repository or tarball lacks
    #[arg(long, value_name = "OLD")]
    pub since: Option<PathBuf>,
}

/// Bytes, or with a suffix K, M, G multiples of 1024, as `split --bytes` reads them.
fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number = digits.parse::<u64>().ok().filter(|number| *number > 0);
    let size = number.and_then(|number| number.checked_mul(1 << shift));
    size.ok_or_else(|| "expected a size such as 4G, 700M or a number of bytes".into())
}

/// Arguments of `farrow repo verify`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  farrow repo verify /www/pigsty
  farrow repo verify pigsty-v0.1.0.d13.x86_64.tar.gz --key pigsty.asc
  farrow repo verify /www/pigsty --repair --from pigsty-v0.1.0.d13.x86_64.tar.gz")]
pub struct VerifyArgs {
    /// A repository folder or a tarball
    pub path: PathBuf,
    /// A public key, one of which must have signed it (default: the key that lies beside it, which finds damage only)
    #[arg(long, value_name = "FILE")]
    pub key: Vec<PathBuf>,
    /// Restore what is missing or wrong and move away what does not belong there
    #[arg(long)]
    pub repair: bool,
    /// Take what is missing from this tarball first, then from the cache and the archives
    #[arg(long, value_name = "TARBALL", requires = "repair")]
    pub from: Option<PathBuf>,
}

/// `farrow image …`
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Bake an image from a repository alone; opens no network socket but to a shared cache that is named
    Build(ImageBuildArgs),
    /// Boot an image in QEMU, and wait for the machine's own report
    Boot(ImageBootArgs),
    /// Make keys of one's own for Secure Boot: PK, KEK and db, with certificates and the files that enrol them
    Keys {
        /// Folder to make; it holds secrets
        dir: PathBuf,
        /// Whose keys these are, for the certificates' names
        #[arg(long, default_value = "Secure Boot")]
        name: String,
    },
    /// Check an image's files against its manifest, the list SHA256SUMS and its signature
    Verify {
        /// The manifest, NAME.manifest.json
        manifest: PathBuf,
        /// A public key, one of which must have signed the list (default: the key beside it, which finds damage only)
        #[arg(long, value_name = "FILE")]
        key: Vec<PathBuf>,
    },
    /// Show what is in an image, from its file alone: partitions, kernels, root hash, packages
    Inspect {
        /// An image of any format
        image: PathBuf,
        /// List the packages, too
        #[arg(long)]
        packages: bool,
    },
    /// Compare two images of any formats: packages, partitions, files
    Diff {
        /// The old image
        old: PathBuf,
        /// The new one
        new: PathBuf,
    },
}

/// Arguments of `farrow image build`.
#[derive(Debug, Args)]
pub struct ImageBuildArgs {
    /// Recipe: a file, or the name of one that farrow ships
    pub recipe: String,
    /// The repository: a folder or a tarball (default: the recipe's, below --out)
    #[arg(long, value_name = "PATH")]
    pub repo: Option<PathBuf>,
    /// Formats to write instead of the recipe's
    #[arg(long, value_delimiter = ',', value_name = "FORMAT,…")]
    pub format: Vec<ImageFormat>,
    /// Where the image goes
    #[arg(long, value_name = "DIR", default_value = "out")]
    pub out: PathBuf,
    /// Say what each key of the recipe did to the image
    #[arg(long)]
    pub explain: bool,
    /// Sign boot loader and kernel image for Secure Boot with this RSA key, PEM; it stays outside of image and cache
    #[arg(
        long,
        value_name = "FILE",
        env = "FARROW_SECURE_BOOT_KEY",
        requires = "secure_boot_certificate"
    )]
    pub secure_boot_key: Option<PathBuf>,
    /// The certificate of that key, PEM
    #[arg(
        long,
        value_name = "FILE",
        env = "FARROW_SECURE_BOOT_CERTIFICATE",
        requires = "secure_boot_key"
    )]
    pub secure_boot_certificate: Option<PathBuf>,
}

/// Arguments of `farrow machine`.
#[derive(Debug, Args)]
pub struct MachineArgs {
    /// Name of the deployment that runs (default: the only one that does)
    #[arg(long, value_name = "NAME")]
    pub deployment: Option<String>,
    /// Folder of the machines that run, instead of looking below --out
    #[arg(long, value_name = "DIR", conflicts_with = "deployment")]
    pub run: Option<PathBuf>,
    /// The folder that `up` was given as --out
    #[arg(long, value_name = "DIR", default_value = "out")]
    pub out: PathBuf,
    /// What to do
    #[command(subcommand)]
    pub verb: MachineVerb,
}

/// `farrow machine …`
#[derive(Debug, Clone, Subcommand)]
pub enum MachineVerb {
    /// List the machines and how they are
    List,
    /// Show what a machine tells about itself
    Status {
        /// The machine
        node: String,
    },
    /// Run a program in a machine, with this terminal as its own (containers only)
    Exec {
        /// The machine
        node: String,
        /// The program and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Add a machine that joins a cluster with autoscale = true, and switch it on; its name follows from the instance id
    Add {
        /// The cluster
        #[arg(long, value_name = "CLUSTER")]
        join: String,
        /// The instance id, as a cloud would give one
        #[arg(long, value_name = "ID")]
        instance_id: String,
        /// An address of the deployment's network that nobody has
        #[arg(long)]
        address: std::net::Ipv4Addr,
    },
    /// Shut a machine down in order
    PowerOff {
        /// The machine
        node: String,
    },
    /// Take a machine's power away: nothing is flushed, nobody is told
    PowerCut {
        /// The machine
        node: String,
    },
    /// Switch a machine on again, with what it had on its disk
    PowerOn {
        /// The machine
        node: String,
    },
    /// Cut a machine off: from all, from one other, or from one port (containers only)
    Cut {
        /// The machine
        node: String,
        /// Only from this machine
        #[arg(long, value_name = "NODE")]
        from: Option<String>,
        /// Only TCP and UDP packets from or to this port
        #[arg(long)]
        port: Option<u16>,
    },
    /// Lose a share of a machine's packets, in each direction (containers only)
    Loss {
        /// The machine
        node: String,
        /// How many of a hundred
        #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
        percent: u8,
    },
    /// End cuts and losses, of one machine or all (containers only)
    Heal {
        /// The machine
        node: Option<String>,
    },
}

/// Arguments of `farrow seed`.
#[derive(Debug, Args)]
pub struct SeedArgs {
    /// Deployment: a file, or the name of one that farrow ships
    pub deployment: String,
    /// Where the seeds go; they hold secrets and are made readable to their owner alone
    #[arg(long, value_name = "DIR", default_value = "out/seed")]
    pub out: PathBuf,
    /// Have a machine run a shell command once it is ready, as NODE=COMMAND
    #[arg(long, value_name = "NODE=COMMAND", value_parser = parse_check)]
    pub check: Vec<(String, String)>,
    /// Write no seed images, for which the tools tree is needed
    #[arg(long)]
    pub no_images: bool,
    /// Write one seed only, of a machine that joins this cluster without being declared
    #[arg(long, value_name = "CLUSTER", requires_all = ["instance_id", "address"], conflicts_with = "check")]
    pub join: Option<String>,
    /// Instance id of the machine that joins; its name follows from it
    #[arg(long, value_name = "ID", requires = "join")]
    pub instance_id: Option<String>,
    /// Address of the machine that joins
    #[arg(long, value_name = "ADDRESS", requires = "join")]
    pub address: Option<std::net::Ipv4Addr>,
}

/// Arguments of `farrow explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Deployment: a file, or the name of one that farrow ships
    #[arg(required_unless_present = "metadata")]
    pub deployment: Option<String>,
    /// The machine
    #[arg(long, required_unless_present = "metadata")]
    pub node: Option<String>,
    /// A folder with user-data and meta-data as a machine would find them
    #[arg(long, value_name = "DIR", conflicts_with_all = ["deployment", "node"])]
    pub metadata: Option<PathBuf>,
}

/// Arguments of `farrow tools`.
#[derive(Debug, Args)]
pub struct ToolsArgs {
    /// Recipe of the programs: a file, or the name of one that farrow ships
    #[arg(long, default_value = "tools")]
    pub recipe: String,
    /// Use this tree as the root instead of the tools tree, writable
    #[arg(long, value_name = "DIR", conflicts_with = "recipe")]
    pub root: Option<PathBuf>,
    /// Make a file or folder of the host visible inside, as HOST:INSIDE; may be repeated
    #[arg(long, value_name = "HOST:INSIDE", value_parser = parse_bind)]
    pub bind: Vec<(PathBuf, PathBuf)>,
    /// Share the host's network
    #[arg(long)]
    pub network: bool,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

fn parse_bind(text: &str) -> Result<(PathBuf, PathBuf), String> {
    match text.split_once(':') {
        Some((host, inside)) if !host.is_empty() && inside.starts_with('/') => {
            Ok((host.into(), inside.into()))
        }
        _ => Err("expected HOST:INSIDE with an absolute path inside".into()),
    }
}
