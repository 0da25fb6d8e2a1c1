//! Typing: the rules by which subexpressions come to fit each other, and what a user is told when
//! they do not. Part of the checker.

use std::sync::Arc;

use sqlparser::ast::{DataType, ExactNumberInfo};

use crate::decimal::Decimal;
use crate::expr::check::{Checker, Typed};
use crate::expr::plan::{Node, Plan, Set};
use crate::expr::vector::Scalar;
use crate::types::Type;

/// What to write instead of a NULL whose type cannot be told.
pub(super) const NULL_HINT: &str = "say which, as in CAST(NULL AS int)";

impl Checker<'_> {
    /// Casts everything to text, as `||` and `concat` do.
    pub(super) fn all_text(&mut self, items: Vec<Typed>) -> Option<Vec<Arc<Node>>> {
        items.into_iter().map(|item| Some(self.cast_node(item, Type::String)?.node)).collect()
    }

    /// Requires a truth value.
    pub(super) fn truth(&mut self, typed: Typed, what: &str) -> Option<Typed> {
        match typed.kind {
            Some(Type::Bool) | None => Some(Typed { kind: Some(Type::Bool), ..typed }),
            Some(kind) => {
                let hint = match kind {
                    Type::String => "compare it, as in a = 'x'",
                    Type::Int | Type::Float | Type::Decimal(_) => "compare it, as in a <> 0",
                    _ => "compare it with something",
                };
                self.wrong(
                    typed.at,
                    format!("{what} takes a condition, not {} {kind}", article(kind)),
                    Some(hint),
                )
            }
        }
    }

    /// Requires text.
    pub(super) fn text(&mut self, typed: Typed, what: &str) -> Option<Typed> {
        match typed.kind {
            Some(Type::String) | None => Some(typed),
            Some(kind) => {
                let hint = "cast it, as in CAST(a AS string)";
                let message = format!("{what} takes a string, not {} {kind}", article(kind));
                self.wrong(typed.at, message, Some(hint))
            }
        }
    }

    /// Requires text that is known now; the inner `None` is NULL.
    pub(super) fn fixed_text(
        &mut self,
        typed: Typed,
        what: &str,
        instead: &str,
    ) -> Option<Option<Arc<str>>> {
        let typed = self.text(typed, what)?;
        match typed.constant() {
            Some(Scalar::Text(text)) => Some(Some(Arc::clone(text))),
            Some(Scalar::Null) => Some(None),
            _ => {
                let message = format!("the pattern of {what} must be a literal");
                let hint = format!("for text out of a column use {instead}");
                self.wrong(typed.at, message, Some(&hint))
            }
        }
    }

    /// Casts a subexpression to a type that it can always become.
    pub(super) fn cast_node(&mut self, typed: Typed, to: Type) -> Option<Typed> {
        match typed.kind {
            None => Some(Typed { kind: Some(to), ..typed }),
            Some(from) if from == to => Some(typed),
            Some(from) => {
                let plan = Plan::Cast { operand: typed.node, from, to, lenient: false };
                self.make(plan, to, typed.at)
            }
        }
    }

    /// Brings all items to one type: ints and decimals become floats beside floats, ints decimals beside
    /// decimals, decimals one that holds them all; literals become timestamps beside timestamps. The inner `None` says that all are NULL.
    pub(super) fn unify(&mut self, items: &mut [Typed], what: &str) -> Option<Option<Type>> {
        let has = |wanted: Type| items.iter().any(|item| item.kind == Some(wanted));
        let kind = if has(Type::Timestamp) {
            Type::Timestamp
        } else if has(Type::Float) {
            Type::Float
        } else if items.iter().any(Typed::is_decimal) {
            let all = items.iter().filter_map(Typed::digits).reduce(Decimal::common)?;
            Type::Decimal(all)
        } else {
            match items.iter().find_map(|item| item.kind) {
                Some(kind) => kind,
                None => return Some(None),
            }
        };
        let mut fine = true;
        for item in items.iter_mut() {
            let unified = match (item.kind, item.constant()) {
                (Some(Type::Int | Type::Decimal(_)), _)
                    if matches!(kind, Type::Float | Type::Decimal(_)) =>
                {
                    self.cast_node(item.clone(), kind)
                }
                (Some(Type::String), Some(Scalar::Text(text))) if kind == Type::Timestamp => {
                    let text = Arc::clone(text);
                    self.timestamp(&text, item.at)
                }
                (Some(other), _) if other != kind => {
                    let message = format!("{what} cannot mix {kind} and {other}");
                    self.wrong(item.at, message, Some(mix_hint(kind, other, item)))
                }
                _ => self.cast_node(item.clone(), kind),
            };
            match unified {
                Some(unified) => *item = unified,
                None => fine = false,
            }
        }
        fine.then_some(Some(kind))
    }
}

fn mix_hint(kind: Type, other: Type, item: &Typed) -> &'static str {
    match (kind, other) {
        (Type::Int | Type::Float | Type::Decimal(_), Type::String) if item.constant().is_some() => {
            "numbers stand without quotes"
        }
        (Type::Int | Type::Float, Type::String) => "cast it, as in CAST(a AS int)",
        (Type::Decimal(_), Type::String) => "cast it, as in CAST(a AS decimal(12,2))",
        (Type::String, Type::Int | Type::Float | Type::Decimal(_)) if item.constant().is_some() => {
            "text stands in single quotes"
        }
        (Type::String, _) => "cast it, as in CAST(a AS string)",
        (Type::Timestamp, _) => "cast it, as in CAST(a AS timestamp)",
        _ => "cast one of them, as in CAST(a AS string)",
    }
}

pub(super) fn article(kind: Type) -> &'static str {
    if kind == Type::Int { "an" } else { "a" }
}

/// Returns the type of this name in SQL.
pub(super) fn type_of(data_type: &DataType) -> Option<Type> {
    Some(match data_type {
        DataType::Text | DataType::String(None) | DataType::Varchar(None) => Type::String,
        DataType::Int(None)
        | DataType::Integer(None)
        | DataType::BigInt(None)
        | DataType::Int8(None)
        | DataType::Int64 => Type::Int,
        DataType::Float(_)
        | DataType::Float8
        | DataType::Float64
        | DataType::Double(_)
        | DataType::DoublePrecision => Type::Float,
        DataType::Bool | DataType::Boolean => Type::Bool,
        DataType::Timestamp(None, _) | DataType::Datetime(None) => Type::Timestamp,
        DataType::Decimal(digits) | DataType::Numeric(digits) | DataType::Dec(digits) => {
            Type::Decimal(match digits {
                ExactNumberInfo::None => Decimal::PLAIN,
                ExactNumberInfo::Precision(precision) => {
                    Decimal::new(u8::try_from(*precision).ok()?, 0)?
                }
                ExactNumberInfo::PrecisionAndScale(precision, scale) => {
                    Decimal::new(u8::try_from(*precision).ok()?, u8::try_from(*scale).ok()?)?
                }
            })
        }
        _ => return None,
    })
}

/// Makes a set of the items if all are constants.
pub(super) fn constants(items: &[Typed]) -> Option<(Set, bool)> {
    let (mut longs, mut doubles, mut wides, mut bools) = (vec![], vec![], vec![], vec![]);
    let (mut texts, mut has_null) = (hashbrown::HashSet::new(), false);
    for item in items {
        match item.constant()? {
            Scalar::Null => has_null = true,
            Scalar::Long(value) => longs.push(*value),
            Scalar::Double(value) if value.is_nan() => {} // equal to nothing
            Scalar::Double(value) => doubles.push(*value),
            Scalar::Wide(value) => wides.push(*value),
            Scalar::Bool(value) => bools.push(*value),
            Scalar::Text(text) => {
                texts.insert(Arc::clone(text));
            }
        }
    }
    longs.sort_unstable();
    longs.dedup();
    wides.sort_unstable();
    doubles.sort_unstable_by(f64::total_cmp);
    let set = match items.iter().find_map(|item| item.kind) {
        Some(Type::Int | Type::Timestamp) => Set::Long(longs),
        Some(Type::Float) => Set::Double(doubles),
        Some(Type::Decimal(_)) => Set::Wide(wides),
        Some(Type::Bool) => Set::Bool(bools),
        Some(Type::String) => Set::Text(texts),
        None => return None,
    };
    Some((set, has_null))
}
