//! What long operations report while they run; the caller decides how to show it.

/// One report. Counts are absolute, not increments, so that a lost report does no harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A stage begins: its name, and how many items and bytes it will handle (0: not known yet).
    Stage {
        /// Name of the stage, for example "fetch".
        name: &'static str,
        /// Number of items.
        items: u64,
        /// Number of bytes.
        bytes: u64,
    },
    /// Bytes handled so far in this stage.
    Bytes {
        /// Bytes done.
        done: u64,
        /// Bytes in total (0: not known).
        total: u64,
    },
    /// An item of this stage is finished.
    Item {
        /// Name of the item.
        name: &'a str,
        /// Items done, this one included.
        done: u64,
        /// Items in total.
        total: u64,
    },
    /// A server failed and something else helped: another mirror, or another attempt.
    Trouble {
        /// Scheme, host and port.
        server: &'a str,
        /// What it failed with the last time.
        reason: &'a str,
    },
}

/// The callback's type. It is called from several threads.
pub type Callback<'a> = &'a (dyn Fn(Progress<'_>) + Sync);

/// A callback that ignores everything.
pub fn silent(_: Progress<'_>) {}
