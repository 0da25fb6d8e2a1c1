//! Expressions: SQL over the columns of a batch, typed when compiled and evaluated in columns.
//!
//! Owns the meaning of every expression in a pipeline file (`filter`, `select`, `route`, the
//! arguments of `aggregate`). Never reads a clock, a file or a locale: a value depends on the row
//! alone. Concepts: the grammar and precedence are PostgreSQL's, NULL follows three-valued logic.
//!
//! What is decided here, where SQL leaves it open:
//! - An error (overflow, division by zero, a cast that does not fit) belongs to a row and counts only
//!   where the row needed the value: not behind an AND or OR that the left side decides, not in a
//!   CASE branch not taken, not in an argument that COALESCE does not reach.
//! - int / int is an int, cut toward zero. Beside a float an int becomes a float, in comparisons too
//!   (ints beyond 2^53 then compare as their nearest float).
//! - Decimals are exact: beside ints they stay decimals, beside floats they become floats. The types of
//!   what is computed are those of [`crate::decimal`]; what does not fit is an error of the row.
//! - Floats follow IEEE 754: NaN equals nothing and is neither smaller nor greater than anything.
//!   `greatest` and `least` skip NaN and NULL. Rounding is half away from zero; CAST to int is half to
//!   even.
//! - `a = 'x'` compares bytes. LIKE has `\` as escape character unless ESCAPE says otherwise.
//! - Names of columns are taken as they are written, quoted or not; a dotted name is one name.
//! - Patterns of LIKE and of regular expressions are literals, compiled once.
//! - A secret is only ever the key of `hmac_sha256`, named by a literal; no text ever shows it.
//! - `concat` skips NULL, `||` does not. `regexp_extract` without a match is NULL.
//! - `extract` gives an int, but `second` and `epoch` give a float with the fraction.
//!
//! ```
//! use tidemill_operators::expr::compile;
//! use tidemill_operators::{Column, Schema, Type};
//!
//! let schema = Schema::new(vec![Column::new("status", Type::Int)]);
//! let expr = compile("status >= 500", &schema).expect("it is right");
//! assert_eq!((expr.kind(), expr.is_fallible()), (Type::Bool, false));
//!
//! let errors = compile("statsu >= 500", &schema).expect_err("it is mistyped");
//! assert_eq!(errors[0].to_string(), "there is no column `statsu` (did you mean `status`?)");
//! ```

mod parse;

mod aggregate;
mod call;
mod check;
mod matching;
mod near;
mod plan;
mod row;
mod secret;
mod typing;

mod cast;
mod compare;
mod evaluate;
mod exact;
mod instant;
mod interval;
mod number;
mod pattern;
mod text;
mod vector;

use std::fmt;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, new_null_array};
use sqlparser::ast::Expr as Ast;
use thiserror::Error;

use crate::expr::check::{Checker, Typed};
use crate::expr::evaluate::{Run, rows_without};
use crate::expr::plan::{Node, Plan};
use crate::expr::typing::NULL_HINT;
use crate::expr::vector::Vector;
use crate::types::{Schema, Type};

pub use crate::expr::secret::{KEY_BYTES_MIN, Secret, Secrets};
pub use row::{Fixed, Steps, Stepwise, Variables};

pub use crate::expr::aggregate::{Aggregate, OrderBy, compile_aggregate};

/// The stack of the compiler, in bytes; only what is used of it is ever backed by memory.
const COMPILE_STACK_BYTES: usize = 32 << 20;

/// A compiled, typed expression; cheap to clone.
#[derive(Clone)]
pub struct Expr {
    inner: Arc<Inner>,
}

struct Inner {
    text: String,
    kind: Type,
    node: Arc<Node>,
    /// What is read, by slot.
    reads: Vec<(String, Type)>,
    /// The names of the same, sorted.
    columns: Vec<String>,
    /// The fingerprints of the keys that are hashed with.
    keys: Vec<String>,
}

/// One mistake in the text of an expression.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}{}", .hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default())]
pub struct ExprError {
    /// The byte, counted from 0 in the text, at which it stands.
    pub at: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it, where that can be said.
    pub hint: Option<String>,
}

/// The outcome of an expression over a batch.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// One value a row, of the Arrow type of [`Expr::kind`]; rows in error hold NULL.
    pub values: ArrayRef,
    /// The rows that failed, sorted by row, each once.
    pub errors: Vec<RowError>,
}

/// Why an expression has no value for one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError {
    /// The row, counted from 0 in the batch.
    pub row: u32,
    /// Why, for a person: `division by zero`.
    pub message: String,
}

/// Compiles an expression against the columns it may read, or returns all its mistakes. It may hash with
/// no secret.
pub fn compile(text: &str, schema: &Schema) -> Result<Expr, Vec<ExprError>> {
    compile_in(text, schema, None)
}

/// Compiles an expression that may hash with secrets.
pub fn compile_with(
    text: &str,
    schema: &Schema,
    secrets: &Secrets,
) -> Result<Expr, Vec<ExprError>> {
    compile_in(text, schema, Some(secrets))
}

/// Checks what can be checked of the text of an expression, or of a call of an aggregate, without knowing
/// what it reads.
pub fn check_syntax(text: &str) -> Result<(), Vec<ExprError>> {
    on_own_stack(|| parse::parse(text).map(drop).map_err(|error| vec![error]))
}

fn compile_in(
    text: &str,
    schema: &Schema,
    secrets: Option<&Secrets>,
) -> Result<Expr, Vec<ExprError>> {
    on_own_stack(|| {
        let (ast, mut checker) = begin(text, schema, secrets)?;
        let typed = checker.expr(&ast);
        finish(text, checker, typed)
    })
}

/// Runs the compiler on a stack of its own: the parser recurses with large frames, and the bounds
/// on nesting must hold whoever calls, with however little stack left.
fn on_own_stack<T: Send>(
    work: impl FnOnce() -> Result<T, Vec<ExprError>> + Send,
) -> Result<T, Vec<ExprError>> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("compile expression".into());
        match builder.stack_size(COMPILE_STACK_BYTES).spawn_scoped(scope, work) {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(error) => {
                let message = format!("cannot start a thread to compile the expression: {error}");
                Err(vec![ExprError { at: 0, message, hint: None }])
            }
        }
    })
}

fn begin<'t>(
    text: &'t str,
    schema: &'t Schema,
    secrets: Option<&'t Secrets>,
) -> Result<(Ast, Checker<'t>), Vec<ExprError>> {
    let (ast, places) = parse::parse(text).map_err(|error| vec![error])?;
    let (errors, reads, keys) = (vec![], vec![], vec![]);
    let checker = Checker { places, schema, secrets, errors, reads, keys, depth: 0 };
    Ok((ast, checker))
}

fn finish(
    text: &str,
    mut checker: Checker<'_>,
    typed: Option<Typed>,
) -> Result<Expr, Vec<ExprError>> {
    match done(text, &mut checker, typed) {
        Some(expr) => Ok(expr),
        None => Err(sorted(checker.errors)),
    }
}

/// Ends one of the expressions of a text; `None` when a mistake was noted.
fn done(text: &str, checker: &mut Checker<'_>, typed: Option<Typed>) -> Option<Expr> {
    let reads = std::mem::take(&mut checker.reads);
    if let Some(typed) = &typed
        && typed.kind.is_none()
    {
        checker.wrong::<()>(typed.at, "cannot tell the type of NULL".into(), Some(NULL_HINT));
    }
    match typed {
        Some(Typed { node, kind: Some(kind), .. }) if checker.errors.is_empty() => {
            let mut columns: Vec<String> = reads.iter().map(|(name, _)| name.clone()).collect();
            columns.sort_unstable();
            let keys = checker.keys.clone();
            let inner = Inner { text: text.to_owned(), kind, node, reads, columns, keys };
            Some(Expr { inner: Arc::new(inner) })
        }
        _ => None,
    }
}

fn sorted(mut errors: Vec<ExprError>) -> Vec<ExprError> {
    errors.sort_by_key(|error| error.at);
    errors
}

impl Expr {
    /// Returns the type of the values.
    pub fn kind(&self) -> Type {
        self.inner.kind
    }

    /// Returns the columns that are read, sorted, each once.
    pub fn columns(&self) -> &[String] {
        &self.inner.columns
    }

    /// Returns whether some row can end in an error.
    pub fn is_fallible(&self) -> bool {
        self.inner.node.fallible
    }

    /// Returns the text it was compiled from; of an aggregate, the whole call.
    pub fn text(&self) -> &str {
        &self.inner.text
    }

    /// Returns what tells the keys apart that it hashes with, of all keys of its text.
    pub fn key_fingerprints(&self) -> &[String] {
        &self.inner.keys
    }

    /// Evaluates it for every row of a batch. Columns are found by name, whatever else the batch
    /// holds; a batch that lacks one (a mistake of the planner) has every row in error.
    pub fn evaluate(&self, columns: &RecordBatch) -> Evaluated {
        let rows = columns.num_rows();
        let mut read = Vec::with_capacity(self.inner.reads.len());
        for (name, kind) in &self.inner.reads {
            let vector = columns.column_by_name(name).and_then(|a| Vector::of_column(a, *kind));
            match vector {
                Some(vector) => read.push(vector),
                None => return self.missing(name, *kind, rows),
            }
        }
        let mut run = Run { columns: &read, rows, errors: vec![] };
        let values = run.node(&self.inner.node, None);
        let mut errors = run.errors;
        // A stable sort: of several errors of a row the first one found stays.
        errors.sort_by_key(|error| error.row);
        errors.dedup_by_key(|error| error.row);
        let void = (!errors.is_empty()).then(|| rows_without(&errors, rows));
        Evaluated { values: values.into_array(self.inner.kind, rows, void), errors }
    }

    /// Returns the column, if the expression is nothing but one.
    pub fn column(&self) -> Option<&str> {
        match self.inner.node.plan {
            Plan::Column { slot } => self.inner.reads.get(slot).map(|(name, _)| name.as_str()),
            _ => None,
        }
    }

    fn missing(&self, name: &str, kind: Type, rows: usize) -> Evaluated {
        let message = format!("the batch has no column `{name}` of type {kind}");
        let error = |row: usize| RowError { row: row as u32, message: message.clone() };
        Evaluated {
            values: new_null_array(&self.inner.kind.arrow(), rows),
            errors: (0..rows).map(error).collect(),
        }
    }
}

impl fmt::Debug for Expr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Expr({:?}: {})", self.inner.text, self.inner.kind)
    }
}
