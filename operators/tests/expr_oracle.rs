//! The vectorised evaluation against a slow obvious one: a tree of made-up expressions is written
//! as SQL for the engine and walked row by row here, over the same rows.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch};
use proptest::prelude::*;
use tidemill_operators::expr::{Evaluated, Expr, Steps, Stepwise, Variables, compile};
use tidemill_operators::value::Value;
use tidemill_operators::{Column, Schema, Type};

/// An expression of ints.
#[derive(Clone, Debug)]
enum Num {
    A,
    B,
    Literal(i64),
    Null,
    Sum(Box<Num>, Box<Num>),
    Difference(Box<Num>, Box<Num>),
    Product(Box<Num>, Box<Num>),
    Quotient(Box<Num>, Box<Num>),
    Rest(Box<Num>, Box<Num>),
    Minus(Box<Num>),
    Case(Box<Log>, Box<Num>, Box<Num>),
    Coalesce(Box<Num>, Box<Num>),
    NullIf(Box<Num>, Box<Num>),
    Greatest(Box<Num>, Box<Num>),
}

/// An expression of truth values.
#[derive(Clone, Debug)]
enum Log {
    P,
    Literal(Option<bool>),
    Compare(&'static str, Box<Num>, Box<Num>),
    And(Box<Log>, Box<Log>),
    Or(Box<Log>, Box<Log>),
    Not(Box<Log>),
    IsNull(Box<Num>),
    IsTrue(Box<Log>),
    Between(Box<Num>, Box<Num>, Box<Num>),
    In(Box<Num>, Vec<Num>),
}

type Row = (Option<i64>, Option<i64>, Option<bool>);

/// The error of a row.
#[derive(Debug)]
struct Failed;

impl Num {
    fn sql(&self) -> String {
        match self {
            Num::A => "a".into(),
            Num::B => "b".into(),
            Num::Literal(value) => format!("({value})"),
            Num::Null => "CAST(NULL AS int)".into(),
            Num::Sum(a, b) => format!("({} + {})", a.sql(), b.sql()),
            Num::Difference(a, b) => format!("({} - {})", a.sql(), b.sql()),
            Num::Product(a, b) => format!("({} * {})", a.sql(), b.sql()),
            Num::Quotient(a, b) => format!("({} / {})", a.sql(), b.sql()),
            Num::Rest(a, b) => format!("({} % {})", a.sql(), b.sql()),
            Num::Minus(a) => format!("(- {})", a.sql()),
            Num::Case(p, a, b) => {
                format!("CASE WHEN {} THEN {} ELSE {} END", p.sql(), a.sql(), b.sql())
            }
            Num::Coalesce(a, b) => format!("coalesce({}, {})", a.sql(), b.sql()),
            Num::NullIf(a, b) => format!("nullif({}, {})", a.sql(), b.sql()),
            Num::Greatest(a, b) => format!("greatest({}, {})", a.sql(), b.sql()),
        }
    }

    fn value(&self, row: Row) -> Result<Option<i64>, Failed> {
        let strict =
            |a: &Num, b: &Num, f: fn(i64, i64) -> Option<i64>| match (a.value(row)?, b.value(row)?)
            {
                (Some(a), Some(b)) => f(a, b).map(Some).ok_or(Failed),
                _ => Ok(None),
            };
        match self {
            Num::A => Ok(row.0),
            Num::B => Ok(row.1),
            Num::Literal(value) => Ok(Some(*value)),
            Num::Null => Ok(None),
            Num::Sum(a, b) => strict(a, b, i64::checked_add),
            Num::Difference(a, b) => strict(a, b, i64::checked_sub),
            Num::Product(a, b) => strict(a, b, i64::checked_mul),
            Num::Quotient(a, b) => strict(a, b, i64::checked_div),
            Num::Rest(a, b) => {
                strict(a, b, |a, b| if b == -1 { Some(0) } else { a.checked_rem(b) })
            }
            Num::Minus(a) => match a.value(row)? {
                Some(a) => a.checked_neg().map(Some).ok_or(Failed),
                None => Ok(None),
            },
            Num::Case(p, a, b) => {
                if p.value(row)? == Some(true) {
                    a.value(row)
                } else {
                    b.value(row)
                }
            }
            Num::Coalesce(a, b) => match a.value(row)? {
                Some(a) => Ok(Some(a)),
                None => b.value(row),
            },
            Num::NullIf(a, b) => {
                let (a, b) = (a.value(row)?, b.value(row)?);
                Ok(a.filter(|_| a != b))
            }
            Num::Greatest(a, b) => {
                let (a, b) = (a.value(row)?, b.value(row)?);
                Ok(a.max(b))
            }
        }
    }
}

impl Log {
    fn sql(&self) -> String {
        match self {
            Log::P => "p".into(),
            Log::Literal(Some(value)) => value.to_string(),
            Log::Literal(None) => "CAST(NULL AS bool)".into(),
            Log::Compare(op, a, b) => format!("({} {op} {})", a.sql(), b.sql()),
            Log::And(a, b) => format!("({} AND {})", a.sql(), b.sql()),
            Log::Or(a, b) => format!("({} OR {})", a.sql(), b.sql()),
            Log::Not(a) => format!("(NOT {})", a.sql()),
            Log::IsNull(a) => format!("({} IS NULL)", a.sql()),
            Log::IsTrue(a) => format!("({} IS TRUE)", a.sql()),
            Log::Between(a, b, c) => format!("({} BETWEEN {} AND {})", a.sql(), b.sql(), c.sql()),
            Log::In(a, items) => {
                let items: Vec<_> = items.iter().map(Num::sql).collect();
                format!("({} IN ({}))", a.sql(), items.join(", "))
            }
        }
    }

    fn value(&self, row: Row) -> Result<Option<bool>, Failed> {
        match self {
            Log::P => Ok(row.2),
            Log::Literal(value) => Ok(*value),
            Log::Compare(op, a, b) => match (a.value(row)?, b.value(row)?) {
                (Some(a), Some(b)) => Ok(Some(match *op {
                    "=" => a == b,
                    "<>" => a != b,
                    "<" => a < b,
                    "<=" => a <= b,
                    ">" => a > b,
                    _ => a >= b,
                })),
                _ => Ok(None),
            },
            Log::And(a, b) => match a.value(row)? {
                Some(false) => Ok(Some(false)),
                a => Ok(match b.value(row)? {
                    Some(false) => Some(false),
                    b => a.and(b),
                }),
            },
            Log::Or(a, b) => match a.value(row)? {
                Some(true) => Ok(Some(true)),
                a => Ok(match b.value(row)? {
                    Some(true) => Some(true),
                    b => a.and(b),
                }),
            },
            Log::Not(a) => Ok(a.value(row)?.map(|a| !a)),
            Log::IsNull(a) => Ok(Some(a.value(row)?.is_none())),
            Log::IsTrue(a) => Ok(Some(a.value(row)? == Some(true))),
            Log::Between(a, b, c) => {
                let (a, b, c) = (a.value(row)?, b.value(row)?, c.value(row)?);
                let above = a.zip(b).map(|(a, b)| a >= b);
                let below = a.zip(c).map(|(a, c)| a <= c);
                Ok(match (above, below) {
                    (Some(false), _) | (_, Some(false)) => Some(false),
                    (above, below) => above.and(below),
                })
            }
            Log::In(a, items) => {
                let a = a.value(row)?;
                let mut result = Some(false);
                for item in items {
                    match a.zip(item.value(row)?).map(|(a, b)| a == b) {
                        Some(true) => return Ok(Some(true)),
                        Some(false) => {}
                        None => result = None,
                    }
                }
                Ok(result)
            }
        }
    }
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![8 => -3..4_i64, 1 => Just(i64::MIN), 1 => Just(i64::MAX), 2 => any::<i64>()]
}

fn nums(num: BoxedStrategy<Num>, log: BoxedStrategy<Log>) -> BoxedStrategy<Num> {
    let pair = (num.clone().prop_map(Box::new), num.clone().prop_map(Box::new));
    prop_oneof![
        pair.clone().prop_map(|(a, b)| Num::Sum(a, b)),
        pair.clone().prop_map(|(a, b)| Num::Difference(a, b)),
        pair.clone().prop_map(|(a, b)| Num::Product(a, b)),
        pair.clone().prop_map(|(a, b)| Num::Quotient(a, b)),
        pair.clone().prop_map(|(a, b)| Num::Rest(a, b)),
        pair.clone().prop_map(|(a, _)| Num::Minus(a)),
        (log.prop_map(Box::new), pair.clone()).prop_map(|(p, (a, b))| Num::Case(p, a, b)),
        pair.clone().prop_map(|(a, b)| Num::Coalesce(a, b)),
        pair.clone().prop_map(|(a, b)| Num::NullIf(a, b)),
        pair.prop_map(|(a, b)| Num::Greatest(a, b)),
    ]
    .boxed()
}

fn logs(num: BoxedStrategy<Num>, log: BoxedStrategy<Log>) -> BoxedStrategy<Log> {
    let boxed = num.clone().prop_map(Box::new);
    let pair = (log.clone().prop_map(Box::new), log.prop_map(Box::new));
    let op = proptest::sample::select(vec!["=", "<>", "<", "<=", ">", ">="]);
    prop_oneof![
        3 => (op, boxed.clone(), boxed.clone()).prop_map(|(op, a, b)| Log::Compare(op, a, b)),
        2 => pair.clone().prop_map(|(a, b)| Log::And(a, b)),
        2 => pair.clone().prop_map(|(a, b)| Log::Or(a, b)),
        1 => pair.clone().prop_map(|(a, _)| Log::Not(a)),
        1 => pair.prop_map(|(a, _)| Log::IsTrue(a)),
        1 => boxed.clone().prop_map(Log::IsNull),
        1 => (boxed.clone(), boxed.clone(), boxed.clone())
            .prop_map(|(a, b, c)| Log::Between(a, b, c)),
        1 => (boxed, prop::collection::vec(num, 1..4)).prop_map(|(a, items)| Log::In(a, items)),
    ]
    .boxed()
}

fn trees() -> (BoxedStrategy<Num>, BoxedStrategy<Log>) {
    let mut num = prop_oneof![
        3 => Just(Num::A), 3 => Just(Num::B), 3 => number().prop_map(Num::Literal), 1 => Just(Num::Null)
    ]
    .boxed();
    let mut log =
        prop_oneof![3 => Just(Log::P), 1 => any::<Option<bool>>().prop_map(Log::Literal)].boxed();
    for _ in 0..4 {
        let deeper = nums(num.clone(), log.clone());
        log = prop_oneof![1 => log.clone(), 3 => logs(num.clone(), log)].boxed();
        num = prop_oneof![1 => num, 2 => deeper].boxed();
    }
    (num, log)
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let cell = || prop::option::weighted(0.8, number());
    prop::collection::vec((cell(), cell(), any::<Option<bool>>()), 0..150)
}

fn batch(rows: &[Row]) -> (Schema, RecordBatch) {
    let columns = [("a", Type::Int), ("b", Type::Int), ("p", Type::Bool)];
    let schema = Schema::new(columns.map(|(name, kind)| Column::new(name, kind)).to_vec());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.2).collect::<BooleanArray>()),
    ];
    let batch = RecordBatch::try_new(schema.arrow(), columns).unwrap();
    (schema, batch)
}

/// The same, one row at a time, with `b` as a variable.
fn step_by_step(sql: &str, expr: &Expr, schema: &Schema, batch: &RecordBatch, all: &Evaluated) {
    let variable = Column::new("b", Type::Int);
    let steps = Steps::new(batch.clone(), schema);
    let stepwise = Stepwise::new(expr.clone(), schema, std::slice::from_ref(&variable));
    let fixed = stepwise.fixed(&steps);
    assert_eq!(fixed.is_none(), expr.columns().iter().any(|column| column == "b"), "{sql}");
    let mut variables = Variables::new(vec![variable.kind], vec![Value::Null]);
    for row in 0..batch.num_rows() {
        let b = batch.column(1).as_any().downcast_ref::<Int64Array>().unwrap();
        variables.set(0, if b.is_null(row) { Value::Null } else { Value::Int(b.value(row)) });
        let found = stepwise.at(&steps, row, &variables);
        if let Some(fixed) = &fixed {
            assert_eq!(fixed.at(row), found, "{sql} in row {row}");
        }
        let error = all.errors.iter().find(|error| error.row as usize == row);
        let any = all.values.as_any();
        let value = match expr.kind() {
            _ if all.values.is_null(row) => Value::Null,
            Type::Bool => Value::Bool(any.downcast_ref::<BooleanArray>().unwrap().value(row)),
            _ => Value::Int(any.downcast_ref::<Int64Array>().unwrap().value(row)),
        };
        let expected = error.map_or(Ok(value), |error| Err(error.message.clone()));
        assert_eq!(found, expected, "{sql} in row {row}");
    }
}

fn compare<T: PartialEq + std::fmt::Debug>(
    sql: &str,
    rows: &[Row],
    slow: impl Fn(Row) -> Result<Option<T>, Failed>,
    quick: impl Fn(&dyn Array, usize) -> T,
) {
    let (schema, batch) = batch(rows);
    let expr = compile(sql, &schema).unwrap_or_else(|errors| panic!("{sql}: {errors:?}"));
    let evaluated = expr.evaluate(&batch);
    let mut failed = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let values = evaluated.values.as_ref();
        let found = (!values.is_null(index)).then(|| quick(values, index));
        let expected = slow(*row).unwrap_or_else(|Failed| {
            failed.push(index as u32);
            None
        });
        assert_eq!(found, expected, "{sql} in row {index}: {row:?}");
    }
    let errors: Vec<u32> = evaluated.errors.iter().map(|error| error.row).collect();
    assert_eq!(errors, failed, "{sql}");
    step_by_step(sql, &expr, &schema, &batch, &evaluated);
    assert!(errors.is_empty() || expr.is_fallible(), "{sql}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn oracle_ints_agree_row_by_row(num in trees().0, rows in rows()) {
        compare(&num.sql(), &rows, |row| num.value(row), |values, index| {
            values.as_any().downcast_ref::<Int64Array>().unwrap().value(index)
        });
    }

    #[test]
    fn oracle_conditions_agree_row_by_row(log in trees().1, rows in rows()) {
        compare(&log.sql(), &rows, |row| log.value(row), |values, index| {
            values.as_any().downcast_ref::<BooleanArray>().unwrap().value(index)
        });
    }

    #[test]
    fn no_text_panics(text in "[ -~]{0,80}") {
        let _ = compile(&text, &batch(&[]).0);
    }

    #[test]
    fn no_heap_of_words_panics(words in prop::collection::vec(proptest::sample::select(vec![
        "a", "b", "p", "1", "0", "2.5", "'x'", "NULL", "TRUE", "(", ")", ",", "+", "-", "*", "/",
        "%", "=", "<", "AND", "OR", "NOT", "IS", "IN", "LIKE", "BETWEEN", "CASE", "WHEN", "THEN",
        "ELSE", "END", "CAST", "AS", "int", "::", "||", "coalesce", "substr", "abs", "round",
        "extract", "year", "FROM", "TIMESTAMP", "DATE", "interval", "user", "date_trunc",
    ]), 0..30)) {
        let (schema, batch) = batch(&[(Some(1), Some(0), None), (None, Some(i64::MIN), Some(true))]);
        if let Ok(expr) = compile(&words.join(" "), &schema) {
            let _ = expr.evaluate(&batch);
        }
    }
}
