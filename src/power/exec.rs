//! The `exec` driver: runs a command of the administrator's, without a shell in between.
//!
//! `ipmitool -H bmc-{node} chassis power {action}`: the template is split into words first and the
//! placeholders `{node}`, `{mac}` and `{action}` are filled in afterwards, so that no value can become
//! two words or a shell's syntax.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::{Action, PowerError, Target};
use crate::limits;

/// A command template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    words: Vec<String>,
}

impl Exec {
    /// Splits `template` into words: blanks separate, `'...'` and `"..."` keep blanks, `\` keeps one character.
    ///
    /// # Errors
    /// An empty template, an open quote, or an unknown `{placeholder}`.
    pub fn parse(template: &str) -> Result<Self, PowerError> {
        let wrong = |why: &str| PowerError(format!("power command `{template}`: {why}"));
        let words = split(template).ok_or_else(|| wrong("a quote is not closed"))?;
        if words.is_empty() {
            return Err(wrong(
                "is empty; give a program, like `ipmitool ... {action}`",
            ));
        }
        for word in &words {
            for (at, _) in word.match_indices('{') {
                let known = ["{node}", "{mac}", "{action}"];
                if !known.iter().any(|k| word[at..].starts_with(k)) {
                    return Err(wrong("knows only {node}, {mac} and {action} in braces"));
                }
            }
        }
        Ok(Self { words })
    }

    /// The words for one call.
    fn fill(&self, action: Action, target: &Target) -> Vec<String> {
        let mac = target.mac.map(|m| m.to_string()).unwrap_or_default();
        let fill = |word: &String| {
            word.replace("{node}", target.node.as_str())
                .replace("{mac}", &mac)
                .replace("{action}", action.word())
        };
        self.words.iter().map(fill).collect()
    }

    /// Runs it and waits for its end, at most [`limits::POWER_WAIT`].
    ///
    /// # Errors
    /// When it cannot be started, ends with another code than 0 (its last words are told), or takes too long
    /// (it is then killed).
    pub async fn run(&self, action: Action, target: &Target) -> Result<(), PowerError> {
        self.run_within(action, target, limits::POWER_WAIT).await
    }

    async fn run_within(
        &self,
        action: Action,
        target: &Target,
        wait: Duration,
    ) -> Result<(), PowerError> {
        let words = self.fill(action, target);
        let line = words.join(" ");
        let child = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| PowerError(format!("cannot start `{line}`: {e}; check its path")))?;
        let ended = tokio::time::timeout(wait, child.wait_with_output()).await;
        let output = match ended {
            Err(_) => {
                let seconds = wait.as_secs();
                return Err(PowerError(format!(
                    "`{line}` did not end within {seconds} s and was stopped; a power command must return at once"
                )));
            }
            Ok(Err(e)) => return Err(PowerError(format!("`{line}`: {e}"))),
            Ok(Ok(output)) => output,
        };
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.trim().lines().last().unwrap_or("it said nothing");
        let last: String = last.chars().filter(|c| !c.is_control()).take(300).collect();
        Err(PowerError(format!(
            "`{line}` ended with {}: {last}",
            output.status
        )))
    }
}

/// Words of a command line; `None` when a quote stays open.
fn split(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '\\') => word.get_or_insert_default().extend(chars.next()),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::names::{Mac, NodeName};

    fn target() -> Target {
        Target {
            node: NodeName::parse("n1").unwrap(),
            mac: Some(Mac::parse("52:54:00:00:00:01").unwrap()),
        }
    }

    #[test]
    fn templates_are_split_before_they_are_filled() {
        let exec = Exec::parse(r#"run "a b" 'c  d' e\ f -H bmc-{node} {mac} {action}"#).unwrap();
        let words = exec.fill(Action::Cycle, &target());
        assert_eq!(
            words,
            [
                "run",
                "a b",
                "c  d",
                "e f",
                "-H",
                "bmc-n1",
                "52:54:00:00:00:01",
                "cycle"
            ]
        );
    }

    #[test]
    fn broken_templates_are_refused_with_the_cause() {
        for (template, cause) in [
            ("", "is empty"),
            ("run 'x", "not closed"),
            ("run {host}", "knows only"),
        ] {
            let error = Exec::parse(template).unwrap_err().to_string();
            assert!(error.contains(cause), "{error}");
        }
    }

    #[tokio::test]
    async fn failure_carries_the_last_words_of_the_command() {
        let exec = Exec::parse("sh -c 'echo first >&2; echo no such bmc >&2; exit 3'").unwrap();
        let error = exec.run(Action::On, &target()).await.unwrap_err();
        assert!(error.0.contains("no such bmc"), "{error}");
        assert!(error.0.contains('3'), "{error}");
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_stopped() {
        let exec = Exec::parse("sleep 60").unwrap();
        let wait = Duration::from_millis(50);
        let error = exec
            .run_within(Action::On, &target(), wait)
            .await
            .unwrap_err();
        assert!(error.0.contains("did not end"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let exec = Exec::parse("/no/such/tool {action}").unwrap();
        let error = exec.run(Action::Off, &target()).await.unwrap_err();
        assert!(error.0.contains("/no/such/tool off"), "{error}");
    }
}
