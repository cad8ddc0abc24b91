//! Plans: golden texts, the same bytes for the same inputs, and no secret in what is shown.

mod support;

use std::fs;
use std::path::Path;

use bootstrap::plan::Plan;
use bootstrap::secrets::{cluster_secret, password};
use bootstrap::{Catalogue, Error};

fn catalogue() -> Catalogue {
    Catalogue::load(&support::data("catalogue")).unwrap()
}

fn plan_of(machine: &str) -> Plan {
    support::plan(
        &support::raw(&support::deployment_text(), machine),
        &catalogue(),
    )
    .unwrap()
}

#[test]
fn plans_are_as_reviewed() {
    for machine in ["meta", "pg-test-1"] {
        support::golden(
            &support::data(&format!("plans/{machine}.txt")),
            &plan_of(machine).to_text(true),
        );
    }
}

#[test]
fn plans_hide_secrets() {
    let plan = plan_of("pg-test-1");
    let cluster = cluster_secret(&support::secret(), 1, "pg-test");
    let shown = [
        plan.to_text(true),
        plan.to_json().unwrap(),
        format!("{plan:?}"),
    ];
    let mut rendered = 0;
    for user in ["replicator", "test"] {
        let secret = password(&cluster, 1, user);
        for text in &shown {
            assert!(!text.contains(&secret), "{user}'s password is shown");
        }
        let contents = plan.files.iter().map(|file| &file.content);
        let stdin = plan
            .services
            .iter()
            .flat_map(|service| &service.tasks)
            .filter_map(|task| task.stdin.as_ref());
        rendered += contents
            .chain(stdin)
            .filter(|content| content.text.contains(&secret))
            .count();
    }
    assert_eq!(rendered, 2, "the passwords are where they belong");
}

/// Meta and database nodes compute the same password from different secrets.
#[test]
fn a_clusters_password_is_the_same_wherever_it_is_computed() {
    let files = [
        (
            "s/service.toml",
            "schema = 1\nname = \"s\"\ndescription = \"\"\nroles = [\"meta\", \"database\"]\n[[file]]\npath = \"/p\"\ntemplate = \"p\"\n",
        ),
        ("s/p", "{{ password('u', 'pg-test') }}"),
    ];
    let catalogue =
        Catalogue::from_files(files.map(|(name, text)| (name.to_owned(), text.to_owned())))
            .unwrap();
    let text = |machine: &str| {
        let raw = support::raw(&support::deployment_text(), machine);
        let plan = support::plan(&raw, &catalogue).unwrap();
        assert_eq!(
            plan.files[0].mode.0, 0o600,
            "a file with a password is private by itself"
        );
        plan.files[0].content.text.clone()
    };
    assert_eq!(text("meta"), text("pg-test-1"));
    assert_eq!(text("meta").len(), 32);
}

#[test]
fn other_clusters_secrets_are_out_of_reach() {
    let files = [
        (
            "s/service.toml",
            "schema = 1\nname = \"s\"\ndescription = \"\"\nroles = [\"database\"]\n[[file]]\npath = \"/p\"\ntemplate = \"p\"\n",
        ),
        ("s/p", "{{ password('u', 'pg-meta') }}"),
    ];
    let catalogue =
        Catalogue::from_files(files.map(|(name, text)| (name.to_owned(), text.to_owned())))
            .unwrap();
    let error = support::plan(
        &support::raw(&support::deployment_text(), "pg-test-1"),
        &catalogue,
    )
    .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("holds no secret of cluster pg-meta"),
        "{error}"
    );
}

/// Blocks of the document in another order give the same plan.
#[test]
fn the_order_in_the_document_does_not_matter() {
    let text = support::deployment_text();
    let (head, rest) = text.split_once("[[cluster]]").unwrap();
    let (clusters, tail) = rest.split_once("[[portal]]").unwrap();
    let (first, second) = clusters.split_once("[[cluster]]").unwrap();
    let swapped = format!("{head}[[cluster]]{second}\n[[cluster]]{first}\n[[portal]]{tail}");
    assert_ne!(text, swapped);
    for machine in ["meta", "pg-test-1"] {
        let plan = support::plan(&support::raw(&swapped, machine), &catalogue()).unwrap();
        assert_eq!(plan, plan_of(machine));
    }
}

#[test]
fn a_plan_is_a_function() {
    let first = plan_of("meta");
    let second = plan_of("meta");
    assert_eq!(first.to_json().unwrap(), second.to_json().unwrap());
    assert_eq!(first.digest().unwrap(), second.digest().unwrap());
    assert!(first.diff(&second).is_empty());
    let more = support::deployment_text()
        + "\n[[cluster]]\nname = \"pg-new\"\n[[cluster.member]]\nseq = 1\naddress = \"10.10.10.12\"\nrole = \"primary\"\n";
    let grown = support::plan(&support::raw(&more, "meta"), &catalogue()).unwrap();
    let diff = grown.diff(&first);
    assert_eq!(
        diff.added,
        ["/etc/prometheus/targets/patroni/pg-new-1.json"]
    );
    assert_eq!(diff.changed, ["/etc/hosts"]);
    assert!(diff.removed.is_empty() && diff.services.contains("prometheus"));
}

#[test]
fn bad_catalogues_are_refused() {
    let head = "schema = 1\nname = \"s\"\ndescription = \"\"\nroles = [\"meta\"]\n";
    #[rustfmt::skip]
    let cases = [
        ("wrong = 1", "FR-CATALOGUE-FIELD", "unknown field `wrong`"),
        ("[[file]]\npath = \"/a\"\ntemplate = \"missing\"", "FR-CATALOGUE", "file[0].template: there is no file missing"),
        ("[[file]]\npath = \"a/b\"\ntemplate = \"t\"", "FR-CATALOGUE-PATH", "\"a/b\" is no absolute path"),
        ("[[file]]\npath = \"/a/../b\"\ntemplate = \"t\"", "FR-CATALOGUE-PATH", "no absolute path"),
        ("[[file]]\npath = \"/etc/hosts\"\ntemplate = \"t\"", "FR-CATALOGUE-PATH-TWICE", "is written by network too"),
        ("[[file]]\npath = \"/a\"\ntemplate = \"secret\"\nmode = \"0644\"", "FR-CATALOGUE-SECRET", "everybody could read it"),
        ("[[task]]\nname = \"t\"\nphase = \"before-start\"\ncommand = [\"x\", \"{{ password('u') }}\"]", "FR-CATALOGUE-SECRET", "everybody can read"),
        ("[[file]]\npath = \"/a\"\ntemplate = \"t\"\nmode = \"rw\"", "FR-CATALOGUE-FIELD", "\"rw\" is not a mode"),
        ("[[file]]\npath = \"/a\"\ntemplate = \"t\"\nwhen = \"node.nothing == 1\"", "FR-TEMPLATE", "undefined value in `node.nothing == 1`"),
        ("when = \"node.memory_mib > 1\"", "FR-TEMPLATE", "undefined value"),
        ("after = [\"s\"]", "FR-CATALOGUE-CYCLE", "wait for one another: s"),
        ("[health]\nkind = \"http\"", "FR-CATALOGUE", "health: this kind of check needs url"),
    ];
    for (text, code, message) in cases {
        let files = [
            ("s/service.toml", format!("{head}{text}\n")),
            ("s/t", "x".into()),
            ("s/secret", "{{ password('u') }}".into()),
        ];
        let result = Catalogue::from_files(files.map(|(name, text)| (name.to_owned(), text)))
            .and_then(|catalogue| {
                support::plan(
                    &support::raw(&support::deployment_text(), "meta"),
                    &catalogue,
                )
            });
        let error: Error = result.unwrap_err();
        assert_eq!(error.code(), code, "{text}: {error}");
        assert!(error.to_string().contains(message), "{text}: {error}");
    }
}

/// The catalogue that goes into images, for each machine of the deployment.
#[test]
fn the_real_catalogue_plans() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/services");
    assert!(
        fs::read_dir(&folder).unwrap().next().is_some(),
        "{} is empty",
        folder.display()
    );
    let catalogue = Catalogue::load(&folder).unwrap();
    for machine in ["meta", "pg-test-1"] {
        let raw = support::raw(&support::deployment_text(), machine);
        let plan = support::plan(&raw, &catalogue).unwrap();
        assert_eq!(plan, support::plan(&raw, &catalogue).unwrap());
        assert!(
            plan.services
                .iter()
                .any(|service| service.name == "patroni"),
            "{machine} has no database"
        );
        let etcd = plan.services.iter().any(|service| service.name == "etcd");
        assert_eq!(etcd, machine == "meta");
        let cluster = plan.node.cluster.clone().unwrap();
        let secret = password(
            &cluster_secret(&support::secret(), 1, &cluster),
            1,
            "replicator",
        );
        assert!(
            !plan.to_text(true).contains(&secret) && !plan.to_json().unwrap().contains(&secret)
        );
    }
}
