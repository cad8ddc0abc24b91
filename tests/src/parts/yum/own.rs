//! What a yum repository has beside the vendor's packages: modular metadata, packages of our own, an RSA key.

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::farrow::Farrow;
use e2e::world::World;
use e2e::yum::site;
use e2e::yum::tools::Tools;
use offline_repo::digest::Sha256;
use offline_repo::rpm::proof::QUERY;
use offline_repo::signer::Signer;

use super::{DNF, recipe};

/// A base state for the recipe: what rpm says is installed.
const MACHINE: &str =
    "[[base]]\nname = \"a machine\"\nkind = \"status\"\nstatus = \"machine.list\"\n";

/// What the vendor says of modules is in the repository, and the lock leaves alone what dnf hides.
pub fn modules(tools: &Tools<'_>) -> Result<()> {
    let outcome = tools.run(&format!(
        r#"
        mkdir -p root cache persist log
        {DNF} --forcearch x86_64 module list --disablerepo '*' --enablerepo shelf
        printf '[vendor]\nname=vendor\nbaseurl=file:///work/site/el9/shelf/\n' > repos/vendor.repo
        {DNF} --forcearch x86_64 repoquery --disablerepo '*' --enablerepo vendor shelf-wood shelf-metal | sed 's/^/seen /'
        rm repos/vendor.repo
        "#
    ))?;
    let said = &outcome.stdout;
    for word in ["furniture", "classic [d]", "foundry", "seen shelf-wood"] {
        ensure!(said.contains(word), "{word}: {said}");
    }
    ensure!(!said.contains("seen shelf-metal"), "{said}");
    let lock = offline_repo::lock::Lock::load(&tools.dir.join("shelf.lock"))?;
    ensure!(
        lock.package("shelf-wood").is_some() && lock.package("shelf-metal").is_none(),
        "the lock has what dnf hides"
    );
    println!("    modules: dnf lists the vendor's streams, and the lock has what it sees");
    Ok(())
}

/// dnf installs the packages that farrow wrote itself, and rpm finds everything as they say; on the machine that this
/// makes, as rpm describes it, the group is proved to install.
pub fn packages(world: &World, tools: &Tools<'_>) -> Result<()> {
    let dir = &tools.dir;
    fs::write(
        dir.join("shelf.toml"),
        recipe(&site::serve(&dir.join("site"))?, "x86_64"),
    )?;
    let build = || {
        Farrow::new(
            world,
            &[
                "repo",
                "build",
                "shelf.toml",
                "--lock",
                "own.lock",
                "--json",
            ],
        )
        .in_dir(dir)
        .json()
    };
    build()?;
    let outcome = tools.run(&format!(
        r#"
        rm -rf root cache persist; mkdir -p root cache persist log
        {DNF} --forcearch x86_64 install shelf-platform farrow farrow-bootstrap
        root() {{ rpm --root /work/root "$@"; }}
        root -V --nodeps farrow farrow-bootstrap shelf-platform
        root -q --requires shelf-platform
        root -qc farrow-bootstrap > configuration
        ls -l root/usr/bin/farrow root/usr/bin/farrow-bootstrap root/usr/lib/farrow/image.json
        mkdir -p db; rpmkeys --dbpath /work/db --import out/repo/shelf.asc
        for own in out/repo/shelf/farrow-[0-9b]*.rpm out/repo/shelf/shelf-platform-*.rpm; do
            rpmkeys --dbpath /work/db --checksig --verbose $own | tee -a checked
        done
        root -qa --qf '{QUERY}' > machine.list
        "#
    ))?;
    for word in ["oldname", "shelf", "rpmlib(CompressedFileNames)"] {
        ensure!(outcome.stdout.contains(word), "{}", outcome.stdout);
    }
    let checked = fs::read_to_string(dir.join("checked"))?;
    let signed = checked.matches("RSA/SHA512 Signature").count();
    ensure!(signed == 3 && !checked.contains("BAD"), "{checked}");
    let text = fs::read_to_string(dir.join("shelf.toml"))?;
    fs::write(dir.join("shelf.toml"), format!("{text}{MACHINE}"))?;
    build()?;
    let verdicts: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.join("out/repo/shelf/closure.json"))?)?;
    let verdicts = verdicts["verdicts"].as_array().context("verdicts")?.clone();
    ensure!(
        verdicts.len() == 2 && verdicts.iter().all(|verdict| verdict["installs"] == true),
        "{verdicts:#?}"
    );
    println!(
        "    dnf installed {signed} packages of our own, signed by RSA; proved on the machine that came of it"
    );
    Ok(())
}

/// Debian 13's own apt takes an index that the repository's RSA key signed.
pub fn apt_takes_the_key(world: &World, tools: &Tools<'_>) -> Result<()> {
    let signer = Signer::load(&world.root.join("state/signing-rsa-3072.key"))?;
    ensure!(signer.is_rsa(), "{signer:?}");
    let packages = "Package: x\nVersion: 1\nArchitecture: all\nFilename: ./x.deb\nSize: 1\n\n";
    let release = format!(
        "Origin: shelf\nSuite: shelf\nDate: Wed, 18 Nov 2026 10:00:00 +0000\nArchitectures: amd64\nSHA256:\n {} {} Packages\n",
        Sha256::of(packages.as_bytes()),
        packages.len()
    );
    let folder = tools.dir.join("apt");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("Packages"), packages)?;
    fs::write(folder.join("key.asc"), signer.public_key()?.armored)?;
    // `farrow tools` ends with 1 whatever its program's code was; apt's is in the message.
    for (changed, code, words) in [(false, Some(0), ""), (true, Some(1), "exit status: 100")] {
        let mut text = signer.clearsign(&release, 1_795_000_000)?;
        if changed {
            text = text.replace("Origin: shelf", "Origin: other");
        }
        fs::write(folder.join("InRelease"), text)?;
        let outcome = tools.attempt(
            r#"
            rm -rf lists; mkdir -p lists/partial archives/partial
            echo 'deb [signed-by=/work/apt/key.asc] file:/work/apt ./' > sources.list
            apt-get -q update --error-on=any -o APT::Sandbox::User=root -o Dir::Etc::SourceList=/work/sources.list \
                -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists=/work/lists -o Dir::Cache=/work/archives
            "#,
        )?;
        let is_as_expected = outcome.code == code && outcome.stderr.contains(words);
        ensure!(is_as_expected, "changed: {changed}: {outcome:?}");
    }
    println!("    apt took an index signed by RSA, and refused it changed");
    Ok(())
}
