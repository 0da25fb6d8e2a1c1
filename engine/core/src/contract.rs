//! Contract: what a source promises of each of its files as a whole, and whether one keeps it.
//!
//! Derived from the plan; a pure function of what readers have found. The judge gathers that and asks
//! once, when all of a file has been read and nothing of it counts yet.

use regex::Regex;
use serde::{Deserialize, Serialize};
use tidemill_operators::reject::OnError;
use tidemill_store::Frame;

use crate::code::FileCode;
use crate::judge::MaxRejects;

pub mod total;

use total::Total;

/// What fails with the records that an operator or source rejects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// What fails with one of them.
    pub on_error: OnError,
    /// How many of them a file may have.
    pub max_rejects: Option<MaxRejects>,
}

/// What a source promises of each of its files.
#[derive(Clone, Debug, Default)]
pub struct Contract {
    /// The fewest records, good and rejected.
    pub min_records: Option<u64>,
    /// The most records, good and rejected.
    pub max_records: Option<u64>,
    /// The lines before the records.
    pub header: Option<Lines>,
    /// The lines behind them.
    pub trailer: Option<Lines>,
    /// The group of the trailer that says how many records there are.
    pub count: Option<String>,
    /// Columns, and the group of the trailer that says what each adds up to.
    pub totals: Vec<(String, String)>,
}

/// Lines that are no records.
#[derive(Clone, Debug)]
pub struct Lines {
    /// How many.
    pub lines: u32,
    /// What they look like, joined by line ends; left out, anything goes.
    pub regex: Option<Regex>,
}

/// Lines of a file that are no records, as a reader found them: their text, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Framed {
    /// Whether they stand before the records.
    pub is_head: bool,
    /// Their text, joined by `\n`.
    pub text: Result<String, String>,
}

/// What was found of one file.
#[derive(Debug, Default)]
pub struct Found {
    /// Records, good and rejected.
    pub records: u64,
    /// How many of them were rejected while reading: what they hold is not known.
    pub unread: u64,
    /// The lines before the records.
    pub head: Option<Framed>,
    /// The lines behind them.
    pub tail: Option<Framed>,
    /// What the columns of [`Contract::totals`] add up to.
    pub totals: Vec<Total>,
}

impl Contract {
    /// Returns whether it asks nothing.
    pub fn is_empty(&self) -> bool {
        let Self { min_records, max_records, header, trailer, .. } = self;
        // `count` and `totals` are of the trailer.
        min_records.or(*max_records).is_none() && header.is_none() && trailer.is_none()
    }

    /// Returns which lines of a file are no records.
    pub fn frame(&self) -> Frame {
        let lines = |lines: &Option<Lines>| lines.as_ref().map_or(0, |lines| lines.lines);
        Frame { head: lines(&self.header), tail: lines(&self.trailer) }
    }

    /// Says how a file breaks the contract, if it does.
    pub fn broken_by(&self, found: &Found) -> Option<(FileCode, String)> {
        if let Some(header) = &self.header {
            let head = found.head.as_ref().map(|framed| &framed.text);
            if let Err(why) = header.read(head, "header") {
                return Some((FileCode::WrongHeader, why));
            }
        }
        if let Some(trailer) = &self.trailer {
            let tail = found.tail.as_ref().map(|framed| &framed.text);
            let text = match trailer.read(tail, "trailer") {
                Ok(text) => text,
                Err(why) => return Some((FileCode::WrongTrailer, why)),
            };
            let broken = self.broken_by_trailer(trailer, text, found);
            if broken.is_some() {
                return broken;
            }
        }
        let records = found.records;
        if let Some(least) = self.min_records.filter(|least| records < *least) {
            let why = format!("it has {records} records; min_records is {least}");
            return Some((FileCode::WrongCount, why));
        }
        if let Some(most) = self.max_records.filter(|most| records > *most) {
            let why = format!("it has {records} records; max_records is {most}");
            return Some((FileCode::WrongCount, why));
        }
        None
    }

    fn broken_by_trailer(
        &self,
        trailer: &Lines,
        text: &str,
        found: &Found,
    ) -> Option<(FileCode, String)> {
        let groups = trailer.regex.as_ref().and_then(|regex| regex.captures(text))?;
        let group = |name: &str| groups.name(name).map_or("", |group| group.as_str().trim());
        if let Some(name) = &self.count {
            let said = group(name);
            if said.parse::<u64>().ok() != Some(found.records) {
                let why = format!("its trailer says {said:?} records, there are {}", found.records);
                return Some((FileCode::WrongCount, why));
            }
        }
        for ((column, name), total) in self.totals.iter().zip(&found.totals) {
            let said = group(name);
            let matches = match total.value() {
                Some(sum) => Total::parse(said) == Some(sum),
                None => false,
            };
            if !matches {
                let unread = match found.unread {
                    0 => String::new(),
                    some => format!(" (rejected while reading: {some})"),
                };
                let why = format!(
                    "its trailer says that {column:?} adds up to {said:?}, the records add up to \
                     {total}{unread}"
                );
                return Some((FileCode::WrongTotal, why));
            }
        }
        None
    }
}

impl Lines {
    /// Returns the text of the lines, if they look as they must.
    fn read<'t>(
        &self,
        found: Option<&'t Result<String, String>>,
        what: &str,
    ) -> Result<&'t str, String> {
        let text = match found {
            Some(Ok(text)) => text,
            Some(Err(why)) => return Err(format!("it has no {what}: {why}")),
            None => return Err(format!("it has no {what}: it is empty")),
        };
        match &self.regex {
            Some(regex) if !regex.is_match(text) => {
                Err(format!("its {what} {:?} does not match {:?}", shortened(text), regex.as_str()))
            }
            _ => Ok(text),
        }
    }
}

/// Returns the beginning of a text, for a message.
pub(crate) fn shortened(text: &str) -> String {
    const CHARACTERS_MAX: usize = 200;
    let mut short: String = text.chars().take(CHARACTERS_MAX).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contract() -> Contract {
        let lines = |regex: &str| Some(Lines { lines: 1, regex: Some(Regex::new(regex).unwrap()) });
        Contract {
            min_records: Some(1),
            max_records: Some(3),
            header: lines("^HDR"),
            trailer: lines(r"^TRL,(?<n>\d+),(?<sum>.*)$"),
            count: Some("n".into()),
            totals: vec![("amount".into(), "sum".into())],
        }
    }

    #[track_caller]
    fn check(
        head: &str,
        tail: &str,
        records: u64,
        amounts: &[f64],
        expected: Option<(&str, &str)>,
    ) {
        let framed =
            |is_head, text: &str| Some(Framed { is_head, text: Ok::<_, String>(text.to_owned()) });
        let mut total = Total::default();
        amounts.iter().for_each(|amount| total.add_float(*amount));
        let found = Found {
            records,
            unread: 0,
            head: framed(true, head),
            tail: framed(false, tail),
            totals: vec![total],
        };
        let broken = contract().broken_by(&found);
        let told = broken.as_ref().map(|(code, why)| (code.word(), why.as_str()));
        assert_eq!(told, expected, "{head} {tail} {records}");
    }

    #[test]
    fn a_file_keeps_its_contract_or_says_where_it_breaks_it() {
        check("HDR", "TRL,2,0.30", 2, &[0.1, 0.2], None);
        check("HDR", "TRL,2,-0.1", 2, &[0.1, -0.2], None);
        let header = "its header \"HEAD\" does not match \"^HDR\"";
        check("HEAD", "TRL,2,3", 2, &[1.0, 2.0], Some(("wrong_header", header)));
        let trailer = r#"its trailer "9,9" does not match "^TRL,(?<n>\\d+),(?<sum>.*)$""#;
        check("HDR", "9,9", 1, &[9.0], Some(("wrong_trailer", trailer)));
        let count = "its trailer says \"3\" records, there are 2";
        check("HDR", "TRL,3,3", 2, &[1.0, 2.0], Some(("wrong_count", count)));
        let total = "its trailer says that \"amount\" adds up to \"3.01\", the records add up to 3";
        check("HDR", "TRL,2,3.01", 2, &[1.0, 2.0], Some(("wrong_total", total)));
        let most = "it has 4 records; max_records is 3";
        check("HDR", "TRL,4,0", 4, &[], Some(("wrong_count", most)));
        let least = "it has 0 records; min_records is 1";
        check("HDR", "TRL,0,0", 0, &[], Some(("wrong_count", least)));
    }

    #[test]
    fn an_empty_file_has_neither_header_nor_trailer() {
        let (code, why) = contract().broken_by(&Found::default()).unwrap();
        assert_eq!((code.word(), why.as_str()), ("wrong_header", "it has no header: it is empty"));
        let only = Contract { header: None, trailer: None, totals: vec![], ..contract() };
        assert_eq!(
            only.broken_by(&Found::default()).map(|broken| broken.0.word()),
            Some("wrong_count")
        );
    }
}
