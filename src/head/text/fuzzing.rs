//! A door for the fuzz target of catalog texts. Only there when built with `--cfg fuzzing`.

use super::read;

/// Reads a text as `apply -f` does. What is taken is written as YAML and as JSON, and both say the same again.
///
/// # Errors
/// Line and reason, where it is refused.
///
/// # Panics
/// When a promise is broken.
pub fn catalog_text(text: &str) -> Result<(), (usize, String)> {
    let first = match read(text) {
        Ok(document) => document.plain(),
        Err(fault) => return Err((fault.line, fault.message)),
    };
    for written in [first.to_yaml(), first.to_json()] {
        let again = match read(&written) {
            Ok(document) => document.plain(),
            Err(fault) => panic!("line {}: {}\n{written}", fault.line, fault.message),
        };
        assert_eq!(first, again, "{written}");
    }
    Ok(())
}
