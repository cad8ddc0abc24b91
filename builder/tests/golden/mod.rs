//! Comparing what is printed with the files of this folder, for tests inside the program and outside.

use std::path::{Path, PathBuf};

/// The folder of the golden files.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Compares printed text with the golden file of a code, or of one of several causes of it (`CODE.cause`).
/// `FARROW_UPDATE_GOLDEN=1` writes the file.
pub fn golden(name: &str, text: &str) {
    let code = name.split('.').next().unwrap_or_default();
    assert!(text.contains(&format!("error[{code}]")), "{name}:\n{text}");
    let text = format!("{}\n", text.trim_end());
    let path = folder().join(format!("{name}.txt"));
    if std::env::var_os("FARROW_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        text, expected,
        "{name}; FARROW_UPDATE_GOLDEN=1 writes it anew"
    );
}
