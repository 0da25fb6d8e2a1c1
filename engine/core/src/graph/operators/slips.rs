//! Slips: what people who think in another language write into SQL. Derived; beside what the expression
//! itself says to be wrong, it finds what SQL allows and nobody means.

use std::iter::Peekable;
use std::str::CharIndices;

/// A slip: where, what is said, and what to do.
pub(super) struct Slip {
    pub(super) at: usize,
    pub(super) len: usize,
    pub(super) message: String,
    pub(super) hint: String,
}

/// Returns the first slip in an expression that SQL would take.
pub(super) fn find(text: &str) -> Option<Slip> {
    let mut ahead = text.char_indices().peekable();
    while let Some((at, next)) = ahead.next() {
        match next {
            '\'' | '"' => skip_quoted(&mut ahead, next),
            '-' if ahead.next_if(|(_, next)| *next == '-').is_some() => {
                while ahead.next_if(|(_, next)| *next != '\n').is_some() {}
            }
            '=' | '!' | '<' | '>' => {
                let mut end = at + 1;
                while let Some((last, _)) = ahead.next_if(|(_, next)| "=<>!".contains(*next)) {
                    end = last + 1;
                }
                let operator = text.get(at..end).unwrap_or_default();
                if operator == "==" {
                    let message = "there is no operator `==`".to_owned();
                    let hint = "SQL says `=`".to_owned();
                    return Some(Slip { at, len: 2, message, hint });
                }
                let is_equality = matches!(operator, "=" | "<>" | "!=");
                if is_equality && begins_with_null(text.get(end..).unwrap_or_default()) {
                    let message = format!("`{operator} NULL` is never true: NULL equals nothing");
                    let not = if operator == "=" { "" } else { "NOT " };
                    let hint = format!("write `IS {not}NULL`");
                    return Some(Slip { at, len: operator.len(), message, hint });
                }
            }
            _ => {}
        }
    }
    None
}

fn skip_quoted(ahead: &mut Peekable<CharIndices<'_>>, quote: char) {
    // A doubled quote closes and opens again, which comes to the same.
    for (_, next) in ahead.by_ref() {
        if next == quote {
            return;
        }
    }
}

fn begins_with_null(rest: &str) -> bool {
    let rest = rest.trim_start();
    let word: String =
        rest.chars().take_while(|next| next.is_alphanumeric() || *next == '_').collect();
    word.eq_ignore_ascii_case("null")
}

/// Returns a better hint for a mistake that the expression has told.
pub(super) fn hint(text: &str, message: &str, hint: Option<String>) -> Option<String> {
    let begins = |word: &str| {
        let head = text.trim_start().get(..word.len() + 1).unwrap_or_default();
        head.to_ascii_lowercase().trim_end() == word && head.ends_with(char::is_whitespace)
    };
    match hint {
        Some(hint)
            if hint.starts_with("the columns are") && message.starts_with("there is no column") =>
        {
            Some(format!("{hint}; text stands in single quotes"))
        }
        Some(_) if message.contains(" cannot mix ") && text.contains("||") => {
            Some("`||` joins texts; between conditions SQL says OR".to_owned())
        }
        None if begins("where") => {
            Some("leave `WHERE` out: this is the condition itself".to_owned())
        }
        None if message.starts_with("unexpected `;`") => {
            Some("an expression ends without a semicolon".to_owned())
        }
        hint => hint,
    }
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn what_sql_takes_and_nobody_means_is_found() {
        let check = |text: &str, expected: Option<usize>| {
            assert_eq!(find(text).map(|slip| slip.at), expected, "{text}");
        };
        check("a == 1", Some(2));
        check("a = 'x == y'", None);
        check("\"a==b\" = 1", None);
        check("a = NULL", Some(2));
        check("a <>null", Some(2));
        check("a != NULL or b", Some(2));
        check("a = nullable", None);
        check("a IS NULL and b >= 1", None);
        check("a = 1 -- == NULL\n and b == 2", Some(24));
        check("'it''s = NULL' = a", None);
        check("a <= NULL", None);
    }
}
