//! The parts of the run, in their order.

mod acceptance;
mod alone;
mod apt;
mod arm64;
mod bake_kills;
mod boots;
mod containers;
mod failover;
mod flips;
mod formats;
mod identity;
mod image;
mod install;
mod interrupts;
mod mistakes;
mod platform;
mod refusals;
mod reproducible;
mod roots;
mod scaling;
mod shared_cache;
mod starts;
mod trio;
mod trust;
mod unprivileged;
mod upgrade;
mod yum;

use e2e::figures;
use nix::unistd::geteuid;

use crate::Part;

/// Environment variable with which what takes very long is run as well.
const LONG: &str = "FARROW_E2E_LONG";

/// Parts that run one after the other, in this order: what an earlier one made, a later one looks into.
pub fn in_order() -> Vec<Part> {
    vec![
        part("the_bootstrap_is_small_and_fast", bootstrap_figures),
        part(
            "up_from_an_empty_cache_makes_both_nodes_ready",
            platform::first_boot,
        ),
        part(
            "the_platform_answers_inside_the_machines",
            platform::services_inside,
        ),
        part(
            "a_reboot_keeps_identity_data_and_configuration",
            platform::reboot,
        ),
        part(
            "clients_on_the_host_reach_the_databases",
            platform::clients_from_host,
        ),
        part("machines_stop_on_interrupt", platform::stop),
        part(
            "stock_apt_installs_from_the_tarball_alone",
            apt::install_from_bundle,
        ),
        part(
            "an_image_is_baked_from_a_tarball_alone",
            alone::baked_from_a_tarball,
        ),
        root_part(
            "a_plain_debian_without_routes_becomes_a_meta_node",
            install::air_gapped,
            "root, who may start containers",
        ),
        part(
            "stock_dnf_installs_from_the_repository_alone",
            yum::build_and_install,
        ),
        part("closures_of_rpm_packages_equal_dnf_s", yum::closures),
        part("rpm_versions_are_ordered_as_rpm_does", yum::versions),
        part(
            "the_image_holds_nothing_individual_or_secret",
            image::nothing_secret,
        ),
        part(
            "a_flipped_byte_in_the_root_never_passes",
            image::flipped_byte,
        ),
        part("random_flipped_bytes_are_never_served", flips::everywhere),
        part("two_bakes_give_the_same_bytes", reproducible::two_bakes),
        part("builders_share_a_cache", shared_cache::by_builders),
        part("roots_are_what_dpkg_makes", roots::faithful),
        part(
            "a_killed_bake_leaves_nothing_and_goes_on",
            bake_kills::killed,
        ),
        part("a_small_image_in_every_format_is_read_back", formats::all),
        part("an_upgrade_is_kept_or_falls_back", upgrade::kept_or_not),
        long_part(
            "an_upgrade_by_bios_is_kept_or_falls_back",
            upgrade::by_bios,
            "a machine that boots six times takes minutes",
        ),
        long_part(
            "an_upgrade_keeps_the_database",
            upgrade::with_a_database,
            "two machines that boot a dozen times take half an hour",
        ),
        root_part(
            "a_plain_user_can_bake_and_plan",
            unprivileged::bake_and_plan,
            "root, who makes a plain user's machine",
        ),
        root_part(
            "containers_are_steered_and_leave_no_trace",
            containers::steered_and_gone,
            "root, who may start containers",
        ),
        root_part(
            "the_sandbox_is_accepted",
            acceptance::sandbox,
            "root, who may start containers",
        ),
        long_part(
            "the_sandbox_in_qemu_survives",
            failover::emulated,
            "four emulated machines take a quarter of an hour",
        ),
        long_part(
            "an_image_for_arm64_reports",
            arm64::baked_and_booted,
            "compilers are fetched, and scripts and a machine of another processor emulated",
        ),
        part("wrong_recipes_are_refused", mistakes::recipes),
        part("wrong_images_are_refused", mistakes::images),
        part("what_is_no_image_is_refused", formats::refusals),
        part(
            "wrong_deployments_and_metadata_are_refused",
            refusals::deployments,
        ),
        part("falsified_archives_are_refused", refusals::archives),
        part("a_truncated_tarball_is_refused", refusals::truncated_bundle),
        root_part(
            "a_full_disk_leaves_nothing_half_done",
            refusals::full_disk,
            "root, who may mount a small file system",
        ),
        part("ctrl_c_leaves_nothing_half_done", interrupts::every_stage),
    ]
}

/// Parts that run two at a time: each has machines of its own, and waits most of the time for something to be noticed.
pub fn side_by_side() -> Vec<Part> {
    vec![
        root_part(
            "clients_survive_failures",
            failover::scenarios,
            "root, who may start containers",
        ),
        root_part(
            "any_of_three_meta_nodes_may_die",
            trio::any_may_die,
            "root, who may start containers",
        ),
        root_part(
            "ports_lead_where_they_say_after_three_failovers",
            failover::three_in_a_row,
            "root, who may start containers",
        ),
        root_part(
            "no_acknowledged_row_is_lost_with_rpo_0",
            failover::synchronous,
            "root, who may start containers",
        ),
        root_part(
            "the_sandbox_starts_in_any_order",
            starts::in_any_order,
            "root, who may start containers",
        ),
        root_part(
            "a_cluster_grows_and_shrinks",
            scaling::one_to_four_to_two,
            "root, who may start containers",
        ),
    ]
}

/// The bars of the static bootstrap; the figures are printed.
fn bootstrap_figures(world: &e2e::world::World) -> anyhow::Result<()> {
    let (found, bars) = (
        figures::bootstrap(world, &world.scratch("figures")?)?,
        figures::BARS,
    );
    println!("    {found:?}, bars {bars:?}");
    anyhow::ensure!(found.bytes <= bars.bytes, "{} bytes", found.bytes);
    anyhow::ensure!(found.plan_ms <= bars.plan_ms, "{} ms", found.plan_ms);
    anyhow::ensure!(found.peak_mb <= bars.peak_mb, "{} MB", found.peak_mb);
    Ok(())
}

fn part(name: &'static str, run: fn(&e2e::world::World) -> anyhow::Result<()>) -> Part {
    Part {
        name,
        skip: None,
        run,
    }
}

/// A part that takes very long; unless it is asked for, it counts as skipped.
fn long_part(
    name: &'static str,
    run: fn(&e2e::world::World) -> anyhow::Result<()>,
    reason: &str,
) -> Part {
    let wanted = std::env::var_os(LONG).is_some();
    let skip = (!wanted).then(|| format!("{reason}: set {LONG}=1"));
    Part { name, skip, run }
}

/// A part that needs root; for anybody else it counts as skipped.
fn root_part(
    name: &'static str,
    run: fn(&e2e::world::World) -> anyhow::Result<()>,
    needs: &str,
) -> Part {
    let skip = (!geteuid().is_root()).then(|| format!("needs {needs}"));
    Part { name, skip, run }
}

/// The number in an environment variable, such as how many cases a test draws.
fn number(variable: &str, default: u64) -> u64 {
    let given = std::env::var(variable).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}
