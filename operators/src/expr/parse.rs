//! Parse: text to the syntax tree of `sqlparser`, within bounds, with byte positions.
//!
//! The bounds are checked on the tokens, before the recursive parser runs, so that no text can
//! exhaust the stack. The dialect is PostgreSQL's.

use sqlparser::ast::{Expr as Ast, Spanned};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use crate::expr::ExprError;

/// The longest text of an expression, in bytes.
pub(super) const TEXT_BYTES_MAX: usize = 64 * 1024;
/// The deepest nesting of parentheses, CASE, NOT and signs.
pub(super) const NESTING_MAX: usize = 64;
/// The most words and operators in one expression. Literals, commas and parentheses do not count.
pub(super) const WORDS_MAX: usize = 8192;
/// What the parser may recurse; one level of nesting takes it up to two calls.
const RECURSION_MAX: usize = 2 * NESTING_MAX + 16;

/// Turns lines and columns (in characters) into bytes.
pub(super) struct Places<'t> {
    text: &'t str,
    /// Where each character begins.
    chars: Vec<usize>,
    /// The first character of each line.
    lines: Vec<usize>,
}

impl<'t> Places<'t> {
    fn new(text: &'t str) -> Self {
        let ends = text.chars().enumerate().filter(|(_, char)| *char == '\n');
        Self {
            text,
            chars: text.char_indices().map(|(at, _)| at).collect(),
            lines: std::iter::once(0).chain(ends.map(|(index, _)| index + 1)).collect(),
        }
    }

    /// Returns the byte of a location; the end of the text if it has none.
    pub(super) fn byte(&self, location: Location) -> usize {
        let index = |number: u64| usize::try_from(number).ok()?.checked_sub(1);
        let line = index(location.line).and_then(|line| self.lines.get(line));
        let char = line.zip(index(location.column)).map(|(line, column)| line + column);
        char.and_then(|char| self.chars.get(char)).copied().unwrap_or(self.text.len())
    }

    /// Returns the byte at which an expression begins, walking down without recursion.
    pub(super) fn start(&self, mut ast: &Ast) -> usize {
        loop {
            ast = match ast {
                Ast::BinaryOp { left, .. }
                | Ast::IsDistinctFrom(left, _)
                | Ast::IsNotDistinctFrom(left, _)
                | Ast::AnyOp { left, .. }
                | Ast::AllOp { left, .. } => left,
                Ast::IsNull(expr)
                | Ast::IsNotNull(expr)
                | Ast::IsTrue(expr)
                | Ast::IsNotTrue(expr)
                | Ast::IsFalse(expr)
                | Ast::IsNotFalse(expr)
                | Ast::IsUnknown(expr)
                | Ast::IsNotUnknown(expr)
                | Ast::Nested(expr)
                | Ast::UnaryOp { expr, .. }
                | Ast::Cast { expr, .. }
                | Ast::Between { expr, .. }
                | Ast::InList { expr, .. }
                | Ast::InSubquery { expr, .. }
                | Ast::InUnnest { expr, .. }
                | Ast::Like { expr, .. }
                | Ast::ILike { expr, .. }
                | Ast::SimilarTo { expr, .. }
                | Ast::RLike { expr, .. }
                | Ast::Extract { expr, .. }
                | Ast::Ceil { expr, .. }
                | Ast::Floor { expr, .. }
                | Ast::Position { expr, .. }
                | Ast::Substring { expr, .. }
                | Ast::Trim { expr, .. }
                | Ast::Overlay { expr, .. }
                | Ast::Collate { expr, .. }
                | Ast::Convert { expr, .. }
                | Ast::IsNormalized { expr, .. }
                | Ast::IsJson { expr, .. }
                | Ast::Prefixed { value: expr, .. }
                | Ast::JsonAccess { value: expr, .. }
                | Ast::CompoundFieldAccess { root: expr, .. }
                | Ast::AtTimeZone { timestamp: expr, .. } => expr,
                Ast::Case { case_token, .. } => return self.byte(case_token.0.span.start),
                Ast::Function(function) => match function.name.0.first() {
                    Some(part) => return self.byte(part.span().start),
                    None => return 0,
                },
                Ast::Identifier(_)
                | Ast::CompoundIdentifier(_)
                | Ast::Value(_)
                | Ast::TypedString(_) => return self.byte(ast.span().start),
                Ast::Interval(interval) => &interval.value,
                // Subqueries, arrays and such: refused anyway, their parts need no place.
                _ => return 0,
            };
        }
    }
}

/// Parses a whole text.
pub(super) fn parse(text: &str) -> Result<(Ast, Places<'_>), ExprError> {
    if text.len() > TEXT_BYTES_MAX {
        let message = format!("an expression has at most {TEXT_BYTES_MAX} bytes");
        return Err(ExprError { at: TEXT_BYTES_MAX, message, hint: None });
    }
    let places = Places::new(text);
    let dialect = PostgreSqlDialect {};
    let tokens = Tokenizer::new(&dialect, text).tokenize_with_location().map_err(|error| {
        ExprError { at: places.byte(error.location), message: lower(&error.message), hint: None }
    })?;
    bound(&tokens, &places)?;
    let mut parser = Parser::new(&dialect)
        .with_recursion_limit(RECURSION_MAX)
        .with_tokens_with_locations(tokens);
    let ast = parser.parse_expr().map_err(|error| translate(error, &places))?;
    let next = parser.peek_token();
    if next.token != Token::EOF {
        let at = places.byte(next.span.start);
        let found = next.token.to_string();
        let message = format!("unexpected `{found}` after the expression");
        let query = text.trim_start().get(..7).is_some_and(|head| {
            head.to_ascii_lowercase().starts_with("select") && head.ends_with(char::is_whitespace)
        });
        let hint = hint_for(if query { "SELECT" } else { &found });
        return Err(ExprError { at, message, hint });
    }
    Ok((ast, places))
}

/// Refuses what would make the parser recurse too deeply.
fn bound(tokens: &[TokenWithSpan], places: &Places<'_>) -> Result<(), ExprError> {
    let (mut depth, mut prefixes, mut words, mut empty) = (0_usize, 0_usize, 0_usize, true);
    for token in tokens {
        let refuse = |message: String| {
            Err(ExprError { at: places.byte(token.span.start), message, hint: None })
        };
        let keyword = match &token.token {
            Token::Whitespace(_) => continue,
            Token::EOF => break,
            Token::LParen | Token::LBracket | Token::LBrace => {
                depth += 1;
                prefixes = 0;
                empty = false;
                if depth > NESTING_MAX {
                    return refuse(too_deep());
                }
                continue;
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                depth = depth.saturating_sub(1);
                continue;
            }
            Token::Comma | Token::Number(..) | Token::SingleQuotedString(_) => {
                (prefixes, empty) = (0, false);
                continue;
            }
            Token::Word(word) if word.quote_style.is_none() => Some(word.keyword),
            _ => None,
        };
        empty = false;
        words += 1;
        match keyword {
            Some(Keyword::CASE) => depth += 1,
            Some(Keyword::END) => depth = depth.saturating_sub(1),
            _ => {}
        }
        let prefix = matches!(token.token, Token::Minus | Token::Plus | Token::Tilde)
            || matches!(keyword, Some(Keyword::NOT | Keyword::INTERVAL));
        prefixes = if prefix { prefixes + 1 } else { 0 };
        // A single sign may be an infix operator.
        if depth + prefixes.saturating_sub(1) > NESTING_MAX {
            return refuse(too_deep());
        }
        if words > WORDS_MAX {
            return refuse(format!("an expression has at most {WORDS_MAX} words and operators"));
        }
    }
    if empty {
        return Err(ExprError { at: 0, message: "the expression is empty".into(), hint: None });
    }
    Ok(())
}

/// The message for everything that is nested beyond a bound.
pub(super) fn too_deep() -> String {
    format!("the expression is nested deeper than {NESTING_MAX} levels")
}

/// Takes the place out of the parser's message and says the rest in our words.
fn translate(error: ParserError, places: &Places<'_>) -> ExprError {
    let text = match error {
        ParserError::ParserError(text) | ParserError::TokenizerError(text) => text,
        ParserError::RecursionLimitExceeded => {
            return ExprError { at: 0, message: too_deep(), hint: None };
        }
    };
    let (text, at) = match text.rsplit_once(" at Line: ") {
        Some((text, place)) => (text, location(place).map(|place| places.byte(place))),
        None => (text.as_str(), None),
    };
    let found = text.split_once(", found: ");
    let (message, hint) = match found {
        Some((expected, found)) => {
            let expected = expected.trim_start_matches("Expected: ");
            let thing = if found == "EOF" { "the end".into() } else { format!("`{found}`") };
            (format!("expected {expected}, found {thing}"), hint_for(found))
        }
        None => (lower(text), None),
    };
    ExprError { at: at.unwrap_or(places.text.len()), message, hint }
}

fn location(place: &str) -> Option<Location> {
    let (line, column) = place.split_once(", Column: ")?;
    Some(Location { line: line.parse().ok()?, column: column.trim().parse().ok()? })
}

fn lower(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_lowercase().chain(chars).collect())
}

fn hint_for(token: &str) -> Option<String> {
    let hint = match token {
        "&&" | "&" => "SQL says AND",
        "!" => "SQL says NOT, and <> for `is not`",
        "SELECT" | "select" => "this is an expression, such as `status >= 500`, not a query",
        "AS" | "as" => "the name of a column stands before its expression, as in `name: a + b`",
        _ => return None,
    };
    Some(hint.to_owned())
}
