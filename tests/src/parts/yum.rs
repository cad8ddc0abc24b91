//! RPM packages of real rpmbuild, through `farrow`, to real dnf; our metadata beside createrepo_c's; closures beside
//! dnf's; versions beside rpm's.

mod own;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};

use anyhow::{Context, Result, ensure};
use e2e::farrow::Farrow;
use e2e::world::World;
use e2e::yum::tools::Tools;
use e2e::yum::{fields, site};
use offline_repo::signer::Signer;

use super::number;

/// Packages with everything that metadata can say: rich dependencies, file requires, obsoletes, epochs, scripts.
const SPEC: &str = include_str!("../yum/shelf.spec");

/// Streams of modules: one that is the default, and one that is not.
const MODULES: &str = include_str!("../yum/modules.yaml");

/// The recipe of a platform of these packages.
fn recipe(url: &str, architecture: &str) -> String {
    format!(
        "schema = 1\nname = \"shelf\"\narchitecture = \"{architecture}\"\n\
         [distribution]\nid = \"rocky\"\nsuite = \"el9\"\ncode = \"el9\"\n\
         [[upstream]]\nname = \"shelf\"\nkind = \"rpm\"\narchive = \"shelf\"\nurl = \"{url}\"\n\
         suites = [\"el9/shelf\"]\nkeys = [\"vendor.asc\"]\n\
         [packages]\nplatform = [\"shelf\", \"oldname\"]\n[services]\ncatalogue = [\"node-exporter\"]\n\
         [repository]\nkey = \"rsa-3072\"\n[[base]]\nname = \"nothing\"\nkind = \"empty\"\n"
    )
}

/// Builds and signs the vendor's packages and repository below `dir/site/el9/shelf`.
fn vendor(tools: &Tools<'_>) -> Result<()> {
    let dir = &tools.dir;
    let key = Signer::generate("vendor")?;
    key.save(&dir.join("vendor.key"))?;
    fs::create_dir_all(dir.join("keys"))?;
    fs::write(dir.join("keys/vendor.asc"), key.public_key()?.armored)?;
    fs::write(dir.join("shelf.spec"), SPEC)?;
    fs::write(dir.join("modules.yaml"), MODULES)?;
    tools.run(
        r#"
        site=site/el9/shelf; mkdir -p $site gpg; chmod 700 gpg; export GNUPGHOME=/work/gpg
        gpg --batch --quiet --import vendor.key
        id=$(gpg --batch --with-colons --list-keys | sed -n '/^fpr/{s/.*:\([0-9A-F]*\):$/\1/p;q}')
        for target in x86_64 aarch64; do
            rpmbuild -bb --quiet --target $target --define "_topdir /work/top" --define "_tmppath /tmp" shelf.spec
        done
        find top/RPMS -name '*.rpm' -exec cp {} $site ';'
        rpmsign --define "__gpg /usr/bin/gpg" --define "_gpg_name $id" --define "_gpg_path /work/gpg" --addsign $site/*.rpm
        createrepo_c --quiet $site
        modifyrepo_c --mdtype=modules modules.yaml $site/repodata
        gpg --batch --quiet --local-user $id --armor --detach-sign $site/repodata/repomd.xml
        gpgconf --kill all
        "#,
    )?;
    Ok(())
}

/// Of which packages are built, published and installed.
const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

/// From the vendor's packages to dnf on a machine without network.
pub fn build_and_install(world: &World) -> Result<()> {
    let dir = world.scratch("yum")?;
    let tools = Tools::new(world, &dir);
    vendor(&tools)?;
    let url = site::serve(&dir.join("site"))?;
    for architecture in ARCHITECTURES {
        fs::write(dir.join("shelf.toml"), recipe(&url, architecture))?;
        for file in ["shelf.lock", "out"] {
            let path = dir.join(file);
            let _ = fs::remove_file(&path);
            let _ = fs::remove_dir_all(&path);
        }
        let built = Farrow::new(world, &["repo", "build", "shelf.toml", "--json"]);
        let built = built.in_dir(&dir).json()?;
        let again = Farrow::new(world, &["repo", "build", "shelf.toml", "--json"]);
        let again = again.in_dir(&dir).json()?;
        let reused = |stage: &serde_json::Value| stage["reused"] == true;
        let stages = again["stages"].as_array().context("stages")?;
        ensure!(
            stages.iter().all(reused),
            "the second build did something: {again}"
        );
        ensure!(built["manifest"] == again["manifest"], "{built}\n{again}");
        let verified = Farrow::new(world, &["repo", "verify", "out/repo/shelf", "--json"]);
        let verified = verified.in_dir(&dir).json()?;
        ensure!(verified["complete"] == true, "{verified}");
        same_metadata(&tools)?;
        install(&tools, architecture)?;
    }
    own::modules(&tools)?;
    refusals(&tools)?;
    own::packages(world, &tools)?;
    own::apt_takes_the_key(world, &tools)
}

/// Our metadata and createrepo_c's of the same files say the same of every package.
fn same_metadata(tools: &Tools<'_>) -> Result<()> {
    tools.run(
        "rm -rf cr; mkdir cr; cp -p out/repo/shelf/*.rpm cr; \
         createrepo_c --quiet --no-database --general-compress-type gz cr",
    )?;
    for kind in ["primary", "filelists", "other"] {
        let ours = fields::by_package(&tools.dir.join("out/repo/shelf"), kind)?;
        let theirs = fields::by_package(&tools.dir.join("cr"), kind)?;
        ensure!(ours.len() > 5, "only {} packages", ours.len());
        ensure!(ours.keys().eq(theirs.keys()), "{kind}: other packages");
        for (package, lines) in &ours {
            let different: Vec<_> = lines
                .iter()
                .zip(&theirs[package])
                .filter(|(a, b)| a != b)
                .collect();
            ensure!(
                different.is_empty() && lines.len() == theirs[package].len(),
                "{kind} of {package}: {different:#?}\n{lines:#?}\n{:#?}",
                theirs[package]
            );
        }
        println!("    {kind}: {} packages, every field equal", ours.len());
    }
    Ok(())
}

/// dnf from the repository alone, signatures of metadata and packages checked; what it installs is the lock.
fn install(tools: &Tools<'_>, architecture: &str) -> Result<()> {
    let outcome = tools.run(&format!(
        r#"
        rm -rf root repos cache persist; mkdir -p root repos cache persist log
        sed 's#http://h.shelf/shelf/#file:///work/out/repo/shelf/#' out/repo/shelf.repo > repos/shelf.repo
        ! grep -E 'gpgcheck=0' repos/shelf.repo
        sed -i 's#^gpgkey=.*#&\n       file:///work/keys/vendor.asc#' repos/shelf.repo
        {DNF} --forcearch {architecture} install shelf oldname
        rpm --root /work/root -qa --qf '%|EPOCH?{{%{{EPOCH}}:}}:{{}}|%{{VERSION}}-%{{RELEASE}} %{{NAME}} %{{ARCH}}\n' | grep -v gpg-pubkey | sort -k 2 > installed
        "#
    ))?;
    let lock = offline_repo::lock::Lock::load(&tools.dir.join("shelf.lock"))?;
    let locked: Vec<String> = (lock.packages.iter())
        .map(|p| format!("{} {} {}", p.version, p.name, p.architecture))
        .collect();
    let text = fs::read_to_string(tools.dir.join("installed"))?;
    // An epoch of 0 that a spec file states is none.
    let bare = |line: &'_ str| line.strip_prefix("0:").unwrap_or(line).to_string();
    let installed: Vec<String> = text.lines().map(bare).collect();
    ensure!(
        installed == locked,
        "dnf {installed:?}\nlock {locked:?}\n{}",
        outcome.stdout
    );
    println!(
        "    {architecture}: dnf installed the {} packages of the lock",
        locked.len()
    );
    Ok(())
}

/// dnf with nothing of the host's and nothing that needs a network. The host may be of another architecture.
const DNF: &str = "dnf -y --quiet --installroot /work/root --setopt=reposdir=/work/repos --setopt=cachedir=/work/cache \
    --setopt=persistdir=/work/persist --setopt=logdir=/work/log --setopt=install_weak_deps=False \
    --setopt=tsflags=noscripts --setopt=ignorearch=True --setopt=optional_metadata_types=filelists \
    --setopt=module_platform_id=platform:el9 --releasever 9";

/// dnf refuses what somebody changed: the metadata, or a package.
fn refusals(tools: &Tools<'_>) -> Result<()> {
    for change in [
        "sed -i 's#<revision>#<revision>1#' out/repo/shelf/repodata/repomd.xml",
        "cp bad.xml.asc out/repo/shelf/repodata/repomd.xml.asc",
        "for f in out/repo/shelf/shelf-[0-9]*.rpm; do printf x | dd of=$f bs=1 seek=5000 conv=notrunc status=none; done",
    ] {
        let outcome = tools.attempt(&format!(
            r#"
            cp -a out/repo/shelf kept; printf x > bad.xml.asc; {change}
            rm -rf root cache persist; mkdir -p root cache persist log; status=0
            {DNF} --forcearch x86_64 install shelf || status=$?
            rm -rf out/repo/shelf; mv kept out/repo/shelf; exit $status
            "#
        ))?;
        ensure!(
            outcome.code != Some(0),
            "dnf installed after: {change}\n{}",
            outcome.stdout
        );
    }
    println!("    dnf refused changed metadata, a changed signature, a changed package");
    Ok(())
}

/// How many universes of random packages, and sets of each, are compared; the seed draws others.
const UNIVERSES: u64 = 4;
const SETS: u64 = 5;

/// What `farrow`'s resolver and dnf choose for random requests among random packages.
pub fn closures(world: &World) -> Result<()> {
    let dir = world.scratch("yum-closures")?;
    let tools = Tools::new(world, &dir);
    fs::write(dir.join("oracle.py"), include_str!("../yum/oracle.py"))?;
    let seed = number("FARROW_TEST_SEED", 4);
    let universes = number("FARROW_TEST_UNIVERSES", UNIVERSES);
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut child = tools.converse("echo '%_dbpath /work/db' > .rpmmacros; rpm --initdb >&2; exec python3 oracle.py /work/scratch")?;
    let mut questions = child.stdin.take().context("stdin")?;
    let mut answers = BufReader::new(child.stdout.take().context("stdout")?);
    let (mut equal, mut refused, mut differences) = (0, 0, Vec::new());
    for number in 0..universes {
        let repository = dir.join(format!("u{number}"));
        let universe = e2e::yum::random::universe(&mut rng, &repository)?;
        for set in 0..SETS {
            let names = e2e::yum::random::names(&mut rng);
            let weak = set % 2 == 1;
            let question = serde_json::json!({"repository": format!("/work/u{number}"), "id": format!("u{number}"),
                "arch": "x86_64", "weak": weak, "names": names});
            writeln!(questions, "{question}")?;
            let mut line = String::new();
            answers.read_line(&mut line)?;
            let answer: serde_json::Value =
                serde_json::from_str(&line).with_context(|| line.clone())?;
            let theirs: Option<Vec<String>> = serde_json::from_value(answer["packages"].clone())?;
            let groups = BTreeMap::from([("request".to_string(), names.clone())]);
            let ours = offline_repo::rpm::resolve::resolve(&universe, &groups, weak)
                .ok()
                .map(|all| {
                    let mut names: Vec<String> =
                        all.iter().map(|chosen| universe.nevra(chosen.id)).collect();
                    names.sort();
                    names
                });
            match (ours == theirs, theirs.is_some()) {
                (true, true) => equal += 1,
                (true, false) => refused += 1,
                _ => differences.push(format!(
                    "u{number} {names:?} weak {weak}\n  ours {ours:?}\n  dnf  {answer}"
                )),
            }
        }
    }
    drop(questions);
    child.wait()?;
    println!(
        "    seed {seed}: {equal} closures equal dnf's, {refused} refused by both, {} differ",
        differences.len()
    );
    // One in a hundred may differ: where requirements contradict each other, several ways out are as good.
    let allowed = (universes * SETS).div_ceil(100) as usize;
    ensure!(differences.len() <= allowed, "{}", differences.join("\n"));
    ensure!(
        equal >= (universes * SETS) as usize / 4,
        "too few closures to say anything"
    );
    Ok(())
}

/// Orders of random versions beside rpm's own, many in one process.
pub fn versions(world: &World) -> Result<()> {
    let dir = world.scratch("yum-versions")?;
    let tools = Tools::new(world, &dir);
    let seed = number("FARROW_TEST_SEED", 4);
    let mut rng = fastrand::Rng::with_seed(seed);
    let pairs: Vec<[String; 2]> = (0..number("FARROW_TEST_CASES", 5000))
        .map(|_| [version(&mut rng), version(&mut rng)])
        .collect();
    let lines: String = pairs.iter().map(|[a, b]| format!("{a} {b}\n")).collect();
    fs::write(dir.join("pairs"), lines)?;
    let script = r#"for line in io.lines("/work/pairs") do
        local a, b = line:match("^(%S+) (%S+)$")
        print(rpm.vercmp(a, b))
    end"#;
    fs::write(dir.join("compare.lua"), script)?;
    let outcome = tools.run("rpmlua compare.lua")?;
    let answers: Vec<&str> = outcome.stdout.split_whitespace().collect();
    ensure!(
        answers.len() == pairs.len(),
        "{} answers to {} pairs",
        answers.len(),
        pairs.len()
    );
    for ([a, b], answer) in pairs.iter().zip(answers) {
        let (ours, theirs) = (compare(a, b) as i32, answer.parse::<i32>()?);
        ensure!(ours == theirs, "{a} {b}: ours {ours}, rpm's {theirs}");
    }
    println!(
        "    seed {seed}: {} pairs of versions ordered as rpm does",
        pairs.len()
    );
    Ok(())
}

/// Whole versions as a package has them, epoch and release included.
fn compare(a: &str, b: &str) -> std::cmp::Ordering {
    use offline_repo::rpm::evr::Evr;
    Evr::parse(a).compare(&Evr::parse(b))
}

fn version(rng: &mut fastrand::Rng) -> String {
    let part = |rng: &mut fastrand::Rng| {
        let length = rng.usize(1..9);
        let letters = b"0011223459aabzAZ..~^_+";
        let letter = |_| char::from(letters[rng.usize(..letters.len())]);
        (0..length).map(letter).collect::<String>()
    };
    let epoch = match rng.u8(..4) {
        0 => format!("{}:", rng.u8(..3)),
        _ => String::new(),
    };
    format!("{epoch}{}-{}", part(rng), part(rng))
}
