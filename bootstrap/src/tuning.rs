//! PostgreSQL's sizes from the machine's: the templates oltp, olap, crit and tiny.
//!
//! Formulas and test vectors are those of Pigsty's documentation for its parameter templates, for clients that come
//! through PgBouncer. One thing differs: on a data disk below 20 GiB, where whole gigabytes of WAL would fill it, WAL
//! sizes shrink with the disk.

use serde::{Deserialize, Serialize};

/// Which workload the sizes are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tuning {
    /// `tiny` below four processors, else `oltp`.
    #[default]
    Auto,
    /// Many short transactions.
    Oltp,
    /// Few long queries, which may use most of the machine.
    Olap,
    /// As oltp, without parallel queries: steady answers count.
    Crit,
    /// A small machine.
    Tiny,
}

/// The part of the machine that the sizes follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Processors.
    pub cpus: u64,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Size of the file system with the data in MiB; 0 when it is not known.
    pub data_mib: u64,
}

/// Sizes; memory and disk in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// The template that was taken; never [`Tuning::Auto`].
    pub template: Tuning,
    /// `max_connections`.
    pub max_connections: u64,
    /// `shared_buffers`.
    pub shared_buffers: u64,
    /// `effective_cache_size`.
    pub effective_cache_size: u64,
    /// `maintenance_work_mem`.
    pub maintenance_work_mem: u64,
    /// `work_mem`.
    pub work_mem: u64,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: u64,
    /// `max_worker_processes`.
    pub max_worker_processes: u64,
    /// `max_parallel_workers`.
    pub max_parallel_workers: u64,
    /// `max_parallel_workers_per_gather`.
    pub max_parallel_workers_per_gather: u64,
    /// `max_parallel_maintenance_workers`.
    pub max_parallel_maintenance_workers: u64,
    /// `min_wal_size`.
    pub min_wal_size: u64,
    /// `max_wal_size`.
    pub max_wal_size: u64,
    /// `max_slot_wal_keep_size`.
    pub max_slot_wal_keep_size: u64,
    /// `temp_file_limit`.
    pub temp_file_limit: u64,
}

/// Smallest number of connections that a document may ask for.
const LEAST_CONNECTIONS: u64 = 20;

/// A data disk of at least this size gets WAL in whole gigabytes.
const WHOLE_UNIT_MIB: u64 = 20 << 10;

impl Sizes {
    /// Sizes for a machine. `connections` is what the document asks for.
    pub fn of(tuning: Tuning, machine: Machine, connections: Option<u64>) -> Sizes {
        let template = match tuning {
            Tuning::Auto if machine.cpus < 4 => Tuning::Tiny,
            Tuning::Auto => Tuning::Oltp,
            other => other,
        };
        let (tiny, olap) = (template == Tuning::Tiny, template == Tuning::Olap);
        let max_connections = connections
            .filter(|wanted| *wanted >= LEAST_CONNECTIONS)
            .unwrap_or(if tiny { 250 } else { 500 });
        let shared_buffers = machine.memory_mib.div_ceil(4);
        let (least, most) = match template {
            Tuning::Tiny => (16, 256),
            Tuning::Olap => (64, 8192),
            _ => (64, 1024),
        };
        let wal = wal_unit(machine.data_mib);
        let limit = |count: u64, most_gib: u64| (wal * count).min(most_gib << 10);
        Sizes {
            template,
            max_connections,
            shared_buffers,
            effective_cache_size: machine.memory_mib - shared_buffers,
            maintenance_work_mem: shared_buffers / if olap { 2 } else { 4 },
            work_mem: (shared_buffers / max_connections).clamp(least, most),
            max_locks_per_transaction: max_connections * if olap { 2 } else { 1 },
            max_worker_processes: worker_processes(template, machine.cpus),
            max_parallel_workers: parallel_workers(template, machine.cpus),
            max_parallel_workers_per_gather: gather_workers(template, machine.cpus),
            max_parallel_maintenance_workers: if tiny {
                (machine.cpus * 33 / 100).max(1)
            } else {
                (machine.cpus * 33).div_ceil(100).max(2)
            },
            min_wal_size: limit(1, 200),
            max_wal_size: limit(4, 2000),
            max_slot_wal_keep_size: limit(6, 3000),
            temp_file_limit: if olap { limit(4, 2000) } else { limit(1, 200) },
        }
    }
}

/// One gigabyte for each 20 GiB of disk, at least one and at most a hundred; on a smaller disk its twentieth part.
fn wal_unit(data_mib: u64) -> u64 {
    match data_mib {
        0 => 1 << 10,
        small if small < WHOLE_UNIT_MIB => (small / 20).max(64),
        _ => data_mib.div_ceil(WHOLE_UNIT_MIB).min(100) << 10,
    }
}

fn worker_processes(template: Tuning, cpus: u64) -> u64 {
    8 + match template {
        Tuning::Tiny => (cpus + 4).max(12),
        Tuning::Olap => (cpus + 12).max(20),
        _ => (cpus + 8).max(16),
    }
}

fn parallel_workers(template: Tuning, cpus: u64) -> u64 {
    match template {
        Tuning::Tiny => (cpus / 2).max(1),
        Tuning::Olap => (cpus * 4).div_ceil(5).max(2),
        _ => cpus.div_ceil(2).max(2),
    }
}

fn gather_workers(template: Tuning, cpus: u64) -> u64 {
    match template {
        Tuning::Tiny | Tuning::Crit => 0,
        Tuning::Olap => (cpus / 2).max(2),
        _ => (cpus / 5).clamp(2, 8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Template, processors, MiB, GiB of disk; then connections, buffers, cache, maintenance, work memory, WAL least,
    /// most, slots and temporary files in GiB, processes, workers, gather, maintenance workers.
    type Vector = (Tuning, u64, u64, u64, [u64; 13]);

    #[test]
    fn vectors() {
        let vectors: [Vector; 6] = [
            (
                Tuning::Tiny,
                1,
                2048,
                20,
                [250, 512, 1536, 128, 16, 1, 4, 6, 1, 20, 1, 0, 1],
            ),
            (
                Tuning::Tiny,
                2,
                4096,
                40,
                [250, 1024, 3072, 256, 16, 2, 8, 12, 2, 20, 1, 0, 1],
            ),
            (
                Tuning::Oltp,
                4,
                16384,
                200,
                [500, 4096, 12288, 1024, 64, 10, 40, 60, 10, 24, 2, 2, 2],
            ),
            (
                Tuning::Oltp,
                16,
                65536,
                1000,
                [500, 16384, 49152, 4096, 64, 50, 200, 300, 50, 32, 8, 3, 6],
            ),
            (
                Tuning::Olap,
                16,
                65536,
                1000,
                [500, 16384, 49152, 8192, 64, 50, 200, 300, 200, 36, 13, 8, 6],
            ),
            (
                Tuning::Crit,
                16,
                65536,
                1000,
                [500, 16384, 49152, 4096, 64, 50, 200, 300, 50, 32, 8, 0, 6],
            ),
        ];
        for (template, cpus, memory_mib, disk_gib, expected) in vectors {
            let machine = Machine {
                cpus,
                memory_mib,
                data_mib: disk_gib << 10,
            };
            let s = Sizes::of(template, machine, None);
            let gib = |mib: u64| mib >> 10;
            let found = [
                s.max_connections,
                s.shared_buffers,
                s.effective_cache_size,
                s.maintenance_work_mem,
                s.work_mem,
                gib(s.min_wal_size),
                gib(s.max_wal_size),
                gib(s.max_slot_wal_keep_size),
                gib(s.temp_file_limit),
                s.max_worker_processes,
                s.max_parallel_workers,
                s.max_parallel_workers_per_gather,
                s.max_parallel_maintenance_workers,
            ];
            assert_eq!(
                found, expected,
                "{template:?} {cpus}/{memory_mib}/{disk_gib}"
            );
        }
    }

    #[test]
    fn small_machines_are_tiny_and_small_disks_keep_room() {
        let machine = Machine {
            cpus: 2,
            memory_mib: 1024,
            data_mib: 5 << 10,
        };
        let sizes = Sizes::of(Tuning::Auto, machine, None);
        assert_eq!(sizes.template, Tuning::Tiny);
        assert_eq!((sizes.min_wal_size, sizes.max_wal_size), (256, 1024));
        assert!(sizes.max_slot_wal_keep_size + sizes.max_wal_size < 3 << 10);
        let large = Machine { cpus: 4, ..machine };
        assert_eq!(Sizes::of(Tuning::Auto, large, None).template, Tuning::Oltp);
    }

    #[test]
    fn connections_of_the_document_count_from_twenty_on() {
        let machine = Machine {
            cpus: 4,
            memory_mib: 8192,
            data_mib: 0,
        };
        assert_eq!(
            Sizes::of(Tuning::Oltp, machine, Some(100)).max_connections,
            100
        );
        assert_eq!(
            Sizes::of(Tuning::Oltp, machine, Some(10)).max_connections,
            500
        );
    }
}
