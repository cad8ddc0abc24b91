//! What long operations tell their caller while they run; nothing in this crate prints.

/// One event of a long operation.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// A stage begins.
    Started {
        /// Stable name, for example `root/configure`.
        stage: &'static str,
        /// How many units it has, when that is known.
        total: Option<u64>,
    },
    /// A stage has done some of its units.
    Advanced {
        /// The name given in `Started`.
        stage: &'static str,
        /// Units done so far.
        done: u64,
    },
    /// A stage is over.
    Finished {
        /// The name given in `Started`.
        stage: &'static str,
        /// Wall time.
        seconds: f64,
        /// True when an earlier result was taken from the cache.
        reused: bool,
    },
}

/// A callback for [`Progress`]; it may be called from several threads.
pub type ProgressFn<'a> = &'a (dyn Fn(Progress) + Sync);

/// Runs `work` as a stage: reports its start, and its end with the time it took.
pub fn stage<T, E>(
    progress: ProgressFn,
    stage: &'static str,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let start = std::time::Instant::now();
    progress(Progress::Started { stage, total: None });
    let value = work()?;
    progress(Progress::Finished {
        stage,
        seconds: start.elapsed().as_secs_f64(),
        reused: false,
    });
    Ok(value)
}
