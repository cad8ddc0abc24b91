//! Runs a command in a tree: `sandbox ROOT COMMAND…`, for trying things out. Variables: `READ_ONLY`, `OWN_ID`,
//! `IGNORE_SYNC`, `BIND=SOURCE:TARGET`.

fn main() {
    images::sandbox::run_if_requested();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((root, argv)) = arguments.split_first() else {
        eprintln!("usage: sandbox ROOT COMMAND…");
        std::process::exit(2);
    };
    let flag = |name: &str| std::env::var_os(name).is_some();
    let mut sandbox = images::sandbox::Sandbox::new(root.as_str()).map_ids(!flag("OWN_ID"));
    if flag("READ_ONLY") {
        sandbox = sandbox.read_only();
    }
    if flag("IGNORE_SYNC") {
        sandbox = sandbox.ignore_sync();
    }
    if let Some((source, target)) = std::env::var("BIND")
        .ok()
        .as_deref()
        .and_then(|bind| bind.split_once(':'))
    {
        sandbox = sandbox.bind(source, target);
    }
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let stdio = std::process::Stdio::inherit;
    let code = sandbox
        .spawn(&argv, stdio(), stdio(), stdio())
        .and_then(|mut child| child.wait());
    match code {
        Ok(status) => std::process::exit(status.code().unwrap_or(1)),
        Err(error) => {
            eprintln!(
                "{}: {error}\n{}",
                error.code(),
                error.hint().unwrap_or_default()
            );
            std::process::exit(125);
        }
    }
}
