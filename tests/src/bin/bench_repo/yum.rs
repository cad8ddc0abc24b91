//! Publishing a yum repository, beside `createrepo_c` on the same packages.

use std::fs;

use anyhow::{Context, Result};
use e2e::farrow::Farrow;
use e2e::yum::site;
use e2e::yum::tools::Tools;
use offline_repo::signer::Signer;
use serde_json::Value;

use crate::run::{Table, fastest};
use crate::stages::Setting;

/// Packages that are built, each with so many files of so many random bytes: about the size of the platform's list.
const PACKAGES: usize = 250;
const FILES: usize = 60;
const BYTES: usize = 8192;

/// Makes the packages, their signed repository, and a recipe for all of them.
fn prepare(tools: &Tools<'_>) -> Result<()> {
    let dir = &tools.dir;
    let key = Signer::generate("vendor")?;
    key.save(&dir.join("vendor.key"))?;
    fs::create_dir_all(dir.join("keys"))?;
    fs::write(dir.join("keys/vendor.asc"), key.public_key()?.armored)?;
    let mut spec = format!(
        "Name: many\nVersion: 1\nRelease: 1\nSummary: many\nLicense: MIT\n%description\nmany\n%install\n\
         for p in $(seq {PACKAGES}); do d=%{{buildroot}}/opt/many$p; mkdir -p $d; for f in $(seq {FILES}); do \
         head -c {BYTES} /dev/urandom > $d/file$f; done; done\n"
    );
    for n in 1..=PACKAGES {
        spec += &format!(
            "%package -n many{n}\nSummary: many\n%description -n many{n}\nmany\n%files -n many{n}\n/opt/many{n}\n"
        );
    }
    fs::write(dir.join("many.spec"), spec)?;
    tools.run(
        r#"
        site=site/many; mkdir -p $site gpg; chmod 700 gpg; export GNUPGHOME=/work/gpg
        gpg --batch --quiet --import vendor.key
        id=$(gpg --batch --with-colons --list-keys | sed -n '/^fpr/{s/.*:\([0-9A-F]*\):$/\1/p;q}')
        rpmbuild -bb --quiet --target x86_64 --define "_topdir /work/top" --define "_tmppath /work" \
            --define "_binary_payload w1.gzdio" many.spec
        find top/RPMS -name '*.rpm' -exec cp {} $site ';'
        rpmsign --define "__gpg /usr/bin/gpg" --define "_gpg_name $id" --define "_gpg_path /work/gpg" --addsign $site/*.rpm
        createrepo_c --quiet $site
        gpg --batch --quiet --local-user $id --armor --detach-sign $site/repodata/repomd.xml
        gpgconf --kill all
        "#,
    )?;
    let url = site::serve(&dir.join("site"))?;
    let names: Vec<String> = (1..=PACKAGES).map(|n| format!("\"many{n}\"")).collect();
    let recipe = format!(
        "schema = 1\nname = \"many\"\narchitecture = \"x86_64\"\n[distribution]\nid = \"rocky\"\nsuite = \"el9\"\ncode = \"el9\"\n\
         [[upstream]]\nname = \"many\"\nkind = \"rpm\"\narchive = \"many\"\nurl = \"{url}\"\nsuites = [\"many\"]\n\
         keys = [\"vendor.asc\"]\n[packages]\nplatform = [{}]\n",
        names.join(", ")
    );
    fs::write(dir.join("many.toml"), recipe).context("many.toml")
}

/// The stage `repository`, which copies, checks, indexes and signs, beside createrepo_c, which indexes.
pub fn publish(setting: &Setting<'_>, table: &mut Table) -> Result<()> {
    let dir = setting.dir.join("yum");
    fs::create_dir_all(&dir)?;
    let tools = Tools::new(setting.world, &dir);
    prepare(&tools)?;
    let ours = fastest(
        || match dir.join("out").exists() {
            true => Ok(fs::remove_dir_all(dir.join("out"))?),
            false => Ok(()),
        },
        || {
            let words = ["repo", "build", "many.toml", "--json"];
            let document = Farrow::new(setting.world, &words).in_dir(&dir).json()?;
            let stages = document["stages"].as_array().context("stages")?;
            let stage = stages.iter().find(|stage| stage["name"] == "repository");
            stage
                .and_then(|stage: &Value| stage["seconds"].as_f64())
                .context("no stage repository")
        },
    )?;
    // Measured inside, so that starting the tools tree does not count.
    let script = "rm -rf cr; mkdir cr; cp out/repo/many/*.rpm cr; begin=$(date +%s%N); createrepo_c --quiet cr; \
                  echo $(($(date +%s%N) - begin))";
    let theirs = fastest(
        || Ok(()),
        || {
            let said = tools.run(script)?.stdout;
            let nanoseconds: f64 = said.trim().parse().with_context(|| said.clone())?;
            Ok(nanoseconds / 1e9)
        },
    )?;
    table.ratio("publish : createrepo_c", ours, theirs, 0.5);
    Ok(fs::remove_dir_all(&dir)?)
}
