# What real dnf would install from the repository in argv[1] on an empty system: one question per line of standard
# input as JSON, one answer per line of standard output.
import json
import os
import sys

import dnf
import dnf.exceptions
import dnf.logging


def ask(repository, question, scratch):
    base = dnf.Base()
    conf = base.conf
    conf.installroot = scratch + "/root"
    conf.cachedir = scratch + "/cache"
    conf.persistdir = scratch + "/persist"
    conf.logdir = scratch + "/log"
    for folder in (conf.installroot, conf.cachedir, conf.persistdir, conf.logdir):
        os.makedirs(folder, exist_ok=True)
    conf.reposdir = [scratch + "/none"]
    conf.plugins = False
    conf.best = False
    # Since 4.19 dnf reads filelists only when it is told to.
    conf.optional_metadata_types = ['filelists']
    conf.gpgcheck = False
    conf.module_platform_id = "platform:el9"
    conf.substitutions["arch"] = question["arch"]
    conf.substitutions["basearch"] = question["arch"]
    conf.substitutions["releasever"] = "9"
    conf.ignorearch = True
    conf.install_weak_deps = question["weak"]
    base.repos.add_new_repo(question["id"], conf, baseurl=["file://" + repository])
    base.fill_sack(load_system_repo=False)
    try:
        for name in question["names"]:
            base.install(name)
        base.resolve()
    except (dnf.exceptions.DepsolveError, dnf.exceptions.MarkingError) as error:
        return {"error": str(error)}
    found = ["%s-%s.%s" % (p.name, p.evr, p.arch) for p in base.transaction.install_set]
    base.close()
    return {"packages": sorted(found)}


for line in sys.stdin:
    question = json.loads(line)
    print(json.dumps(ask(question["repository"], question, sys.argv[1])), flush=True)
