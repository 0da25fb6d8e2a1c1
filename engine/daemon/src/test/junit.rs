//! Junit: verdicts as the XML that build servers read: a suite for each file, a case for each test.

use std::fmt::Write as _;

use super::text::{Style, details};
use super::{Suite, Verdict};

/// Returns all verdicts as XML.
pub(super) fn report(suites: &[Suite]) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let all: Vec<&Verdict> = suites.iter().flat_map(|suite| &suite.verdicts).collect();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "<testsuites name=\"tidemill test\" {}>", counts(&all));
    for suite in suites {
        let all: Vec<&Verdict> = suite.verdicts.iter().collect();
        let _ = writeln!(out, "  <testsuite name=\"{}\" {}>", escaped(&suite.file), counts(&all));
        for one in all {
            let seconds = one.took.as_secs_f64();
            let (class, name) = (escaped(&suite.pipeline), escaped(&one.name));
            let begin =
                format!("<testcase classname=\"{class}\" name=\"{name}\" time=\"{seconds:.3}\"");
            if one.holds() {
                let _ = writeln!(out, "    {begin}/>");
                continue;
            }
            let word = if one.error.is_some() { "error" } else { "failure" };
            let message = match (&one.error, one.failures.first()) {
                (Some(error), _) => error.clone(),
                (None, Some(first)) => format!("{}: {}", first.about, first.message),
                (None, None) => String::new(),
            };
            let text = format!("line {}\n{}", one.line, details(one, &Style::plain()));
            let (message, text) = (escaped(&message), escaped(&text));
            let _ = writeln!(
                out,
                "    {begin}>\n      <{word} message=\"{message}\">{text}</{word}>\n    </testcase>"
            );
        }
        out += "  </testsuite>\n";
    }
    out + "</testsuites>\n"
}

fn counts(all: &[&Verdict]) -> String {
    let errors = all.iter().filter(|one| one.error.is_some()).count();
    let failures = all.iter().filter(|one| !one.holds()).count() - errors;
    let seconds: f64 = all.iter().map(|one| one.took.as_secs_f64()).sum();
    format!(
        "tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" time=\"{seconds:.3}\"",
        all.len()
    )
}

/// Returns text that may stand in XML; characters that XML cannot hold are replaced.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\n' | '\t' => out.push(character),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            other if other.is_control() => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_cannot_hold_is_replaced() {
        assert_eq!(escaped("a<b>&\"c\"\u{1b}[0m\n"), "a&lt;b&gt;&amp;&quot;c&quot;\u{fffd}[0m\n");
    }
}
