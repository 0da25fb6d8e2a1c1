//! Call: the functions, what they take and what they give.
//!
//! Most functions are one row of [`SIGNATURES`]; those whose type depends on their arguments, or
//! that need a literal at compile time, are matched by name first.

use std::sync::Arc;

use sqlparser::ast::{
    CeilFloorKind, DateTimeField, DuplicateTreatment, Expr as Ast, Function as AstFunction,
    FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArguments, ObjectNamePart,
    OrderByExpr, TrimWhereField, Value,
};

use crate::expr::Secret;
use crate::expr::aggregate::AGGREGATES;
use crate::expr::check::{Checker, Typed};
use crate::expr::interval::unit_name;
use crate::expr::near::{begins_like, nearest};
use crate::expr::pattern::{Extractor, Replacer};
use crate::expr::plan::{Arithmetic, Function, Plan, Unit};
use crate::expr::typing::{NULL_HINT, article};
use crate::expr::vector::Scalar;
use crate::types::Type;

/// A function whose types are always the same.
struct Signature {
    name: &'static str,
    takes: &'static [Type],
    required: usize,
    gives: Type,
    make: fn() -> Function,
}

const TRIM: fn() -> Function = || Function::Trim { left: true, right: true };
const LEFT_TRIM: fn() -> Function = || Function::Trim { left: true, right: false };
const RIGHT_TRIM: fn() -> Function = || Function::Trim { left: false, right: true };

const TEXT: Type = Type::String;
const INT: Type = Type::Int;
const FLOAT: Type = Type::Float;

macro_rules! signature {
    ($name:literal, [$($takes:expr),*], $required:literal, $gives:expr, $make:expr) => {
        Signature {
            name: $name,
            takes: &[$($takes),*],
            required: $required,
            gives: $gives,
            make: $make,
        }
    };
}

const SIGNATURES: &[Signature] = &[
    signature!("lower", [TEXT], 1, TEXT, || Function::Lower),
    signature!("upper", [TEXT], 1, TEXT, || Function::Upper),
    signature!("trim", [TEXT, TEXT], 1, TEXT, TRIM),
    signature!("btrim", [TEXT, TEXT], 1, TEXT, TRIM),
    signature!("ltrim", [TEXT, TEXT], 1, TEXT, LEFT_TRIM),
    signature!("rtrim", [TEXT, TEXT], 1, TEXT, RIGHT_TRIM),
    signature!("length", [TEXT], 1, INT, || Function::Length),
    signature!("char_length", [TEXT], 1, INT, || Function::Length),
    signature!("character_length", [TEXT], 1, INT, || Function::Length),
    signature!("substr", [TEXT, INT, INT], 2, TEXT, || Function::Substring),
    signature!("substring", [TEXT, INT, INT], 2, TEXT, || Function::Substring),
    signature!("replace", [TEXT, TEXT, TEXT], 3, TEXT, || Function::Replace),
    signature!("split_part", [TEXT, TEXT, INT], 3, TEXT, || Function::SplitPart),
    signature!("starts_with", [TEXT, TEXT], 2, Type::Bool, || Function::StartsWith),
    signature!("ends_with", [TEXT, TEXT], 2, Type::Bool, || Function::EndsWith),
    signature!("contains", [TEXT, TEXT], 2, Type::Bool, || Function::Contains),
    signature!("strpos", [TEXT, TEXT], 2, INT, || Function::Position),
    signature!("left", [TEXT, INT], 2, TEXT, || Function::Left),
    signature!("right", [TEXT, INT], 2, TEXT, || Function::Right),
    signature!("sqrt", [FLOAT], 1, FLOAT, || Function::SquareRoot),
    signature!("power", [FLOAT, FLOAT], 2, FLOAT, || Function::Power),
    signature!("pow", [FLOAT, FLOAT], 2, FLOAT, || Function::Power),
];

/// The functions that are matched by name, with what they take.
const SPECIAL: &[(&str, &str)] = &[
    ("coalesce", "coalesce(a, b, ...)"),
    ("nullif", "nullif(a, b)"),
    ("greatest", "greatest(a, b, ...)"),
    ("least", "least(a, b, ...)"),
    ("concat", "concat(a, b, ...)"),
    ("abs", "abs(number)"),
    ("round", "round(number [, int])"),
    ("floor", "floor(number)"),
    ("ceil", "ceil(number)"),
    ("ceiling", "ceiling(number)"),
    ("mod", "mod(number, number)"),
    ("regexp_like", "regexp_like(string, pattern [, flags])"),
    ("regexp_extract", "regexp_extract(string, pattern [, group])"),
    ("regexp_replace", "regexp_replace(string, pattern, replacement [, flags])"),
    ("hmac_sha256", "hmac_sha256(string, 'NAME_OF_A_SECRET')"),
    ("date_trunc", "date_trunc('unit', timestamp)"),
    ("date_part", "date_part('unit', timestamp)"),
    ("to_timestamp", "to_timestamp(string or seconds)"),
];

const UNITS: &[(&str, Unit)] = &[
    ("microsecond", Unit::Microsecond),
    ("microseconds", Unit::Microsecond),
    ("millisecond", Unit::Millisecond),
    ("milliseconds", Unit::Millisecond),
    ("second", Unit::Second),
    ("minute", Unit::Minute),
    ("hour", Unit::Hour),
    ("day", Unit::Day),
    ("week", Unit::Week),
    ("month", Unit::Month),
    ("quarter", Unit::Quarter),
    ("year", Unit::Year),
    ("isoyear", Unit::IsoYear),
    ("dow", Unit::DayOfWeek),
    ("isodow", Unit::IsoDayOfWeek),
    ("doy", Unit::DayOfYear),
    ("epoch", Unit::Epoch),
];

impl Signature {
    fn usage(&self) -> String {
        let mut usage = format!("{}(", self.name);
        for (index, takes) in self.takes.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            if index < self.required {
                usage.push_str(&format!("{comma}{takes}"));
            } else {
                usage.push_str(&format!(" [{comma}{takes}]"));
            }
        }
        usage.push(')');
        usage
    }
}

/// The parts of a call that expressions and aggregates have in common.
pub(super) struct Called<'a> {
    pub(super) name: String,
    pub(super) arguments: Vec<&'a Ast>,
    pub(super) star: bool,
    /// `DISTINCT` inside of it, which only aggregates take.
    pub(super) distinct: bool,
    /// `ORDER BY` inside of it, which only aggregates take.
    pub(super) order: &'a [OrderByExpr],
}

impl Checker<'_> {
    /// Takes a call apart and refuses everything that only queries have.
    pub(super) fn called<'a>(&mut self, call: &'a AstFunction, at: usize) -> Option<Called<'a>> {
        let [ObjectNamePart::Identifier(name)] = call.name.0.as_slice() else {
            let message = format!("there is no function `{}`", call.name);
            return self.wrong(at, message, None);
        };
        let refused = match () {
            () if call.over.is_some() => "a window function (OVER)",
            () if call.filter.is_some() => "FILTER",
            () if !call.within_group.is_empty() => "WITHIN GROUP",
            () if call.null_treatment.is_some() => "IGNORE NULLS",
            () if !matches!(call.parameters, FunctionArguments::None) => "a second argument list",
            () => "",
        };
        if !refused.is_empty() {
            return self.unsupported(refused, at);
        }
        let mut called = Called {
            name: name.value.to_lowercase(),
            arguments: vec![],
            star: false,
            distinct: false,
            order: &[],
        };
        let list = match &call.args {
            FunctionArguments::None => return Some(called),
            FunctionArguments::Subquery(_) => return self.unsupported("a subquery", at),
            FunctionArguments::List(list) => list,
        };
        called.distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
        match list.clauses.as_slice() {
            [] => {}
            [FunctionArgumentClause::OrderBy(order)] => called.order = order,
            _ => return self.unsupported("a clause inside of a call", at),
        }
        for argument in &list.args {
            match argument {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(ast)) => called.arguments.push(ast),
                FunctionArg::Unnamed(FunctionArgExpr::Wildcard) => called.star = true,
                _ => return self.unsupported("a named argument", at),
            }
        }
        Some(called)
    }

    pub(super) fn unsupported<T>(&mut self, what: &str, at: usize) -> Option<T> {
        self.wrong(at, format!("{what} is not supported in expressions"), None)
    }

    /// Checks a call.
    pub(super) fn function(&mut self, call: &AstFunction, at: usize) -> Option<Typed> {
        // `user` and its like are calls without parentheses to the parser, and columns to us.
        if matches!(call.args, FunctionArguments::None)
            && let [ObjectNamePart::Identifier(name)] = call.name.0.as_slice()
        {
            if self.schema.column(&name.value).is_none()
                && name.value.to_lowercase().starts_with("current_")
            {
                return self.unsupported(&format!("{} (there is no clock)", name.value), at);
            }
            return self.expr(&Ast::Identifier(name.clone()));
        }
        let Called { name, arguments, star, distinct, order } = self.called(call, at)?;
        if AGGREGATES.contains(&name.as_str()) {
            let message = format!("{name} is an aggregate function");
            let hint = "aggregates stand directly in `compute:` of an aggregate operator";
            return self.wrong(at, message, Some(hint));
        }
        if star {
            return self.wrong(at, format!("{name} takes no `*`"), None);
        }
        if distinct || !order.is_empty() {
            let what = if distinct { "DISTINCT" } else { "ORDER BY" };
            return self.unsupported(&format!("{what} inside of a call"), at);
        }
        let arguments: Vec<_> = arguments.into_iter().map(|ast| self.expr(ast)).collect();
        self.apply(&name, arguments, at)
    }

    /// Applies a function to checked arguments.
    fn apply(&mut self, name: &str, arguments: Vec<Option<Typed>>, at: usize) -> Option<Typed> {
        if let Some((_, usage)) = SPECIAL.iter().find(|(special, _)| *special == name) {
            let arguments = arguments.into_iter().collect::<Option<Vec<_>>>()?;
            return self.special_function(name, usage, arguments, at);
        }
        let Some(signature) = SIGNATURES.iter().find(|signature| signature.name == name) else {
            let names = SIGNATURES.iter().map(|signature| signature.name);
            let names =
                names.chain(SPECIAL.iter().map(|(name, _)| *name)).chain(["extract", "position"]);
            let hint = match name {
                "now" => Some("there is no clock: a result depends only on the file".to_owned()),
                "if" | "iif" | "iff" => Some("use CASE WHEN a THEN b ELSE c END".to_owned()),
                "ifnull" | "nvl" | "isnull" => Some("use coalesce(a, b)".to_owned()),
                "len" => Some("use length(a)".to_owned()),
                name => nearest(name, names.clone())
                    .or_else(|| begins_like(name, names))
                    .map(|near| format!("did you mean `{near}`?")),
            };
            return self.wrong(at, format!("there is no function `{name}`"), hint.as_deref());
        };
        if arguments.len() < signature.required || arguments.len() > signature.takes.len() {
            return self.arity(name, &signature.usage(), arguments.len(), at);
        }
        let arguments = arguments.into_iter().collect::<Option<Vec<_>>>()?;
        let mut nodes = Vec::with_capacity(arguments.len());
        for (argument, takes) in arguments.into_iter().zip(signature.takes) {
            nodes.push(self.argument(argument, *takes, &signature.usage()));
        }
        let arguments =
            nodes.into_iter().map(|typed| typed.map(|typed| typed.node)).collect::<Option<_>>()?;
        self.make(Plan::Call { function: (signature.make)(), arguments }, signature.gives, at)
    }

    fn arity<T>(&mut self, name: &str, usage: &str, given: usize, at: usize) -> Option<T> {
        let s = if given == 1 { "" } else { "s" };
        let message = format!("{name} does not take {given} argument{s}");
        self.wrong(at, message, Some(&format!("it is {usage}")))
    }

    /// Requires a type; an int becomes a float where one is wanted.
    fn argument(&mut self, typed: Typed, takes: Type, usage: &str) -> Option<Typed> {
        match (typed.kind, takes) {
            (None, _) | (Some(Type::Int | Type::Decimal(_)), Type::Float) => {
                self.cast_node(typed, takes)
            }
            (Some(kind), _) if kind == takes => Some(typed),
            (Some(kind), _) => {
                let message =
                    format!("expected {} {takes}, found {} {kind}", article(takes), article(kind));
                self.wrong(typed.at, message, Some(&format!("it is {usage}")))
            }
        }
    }

    fn special_function(
        &mut self,
        name: &str,
        usage: &str,
        mut items: Vec<Typed>,
        at: usize,
    ) -> Option<Typed> {
        let fits = match name {
            "coalesce" | "greatest" | "least" | "concat" => !items.is_empty(),
            "abs" | "floor" | "ceil" | "ceiling" | "to_timestamp" => items.len() == 1,
            "round" => matches!(items.len(), 1 | 2),
            "regexp_like" | "regexp_extract" => matches!(items.len(), 2 | 3),
            "regexp_replace" => matches!(items.len(), 3 | 4),
            _ => items.len() == 2,
        };
        if !fits {
            return self.arity(name, usage, items.len(), at);
        }
        match name {
            "concat" => {
                let items = self.all_text(items)?;
                self.make(Plan::Concat { items, strict: false }, TEXT, at)
            }
            "coalesce" | "greatest" | "least" | "nullif" => {
                let Some(kind) = self.unify(&mut items, name)? else {
                    let message = format!("cannot tell the type of {name}");
                    return self.wrong(at, message, Some(NULL_HINT));
                };
                let mut items: Vec<_> = items.into_iter().map(|item| item.node).collect();
                let plan = match name {
                    "coalesce" => Plan::Coalesce(items),
                    "nullif" => {
                        let right = items.pop()?;
                        Plan::NullIf { left: items.pop()?, right }
                    }
                    _ => Plan::Extreme { items, greatest: name == "greatest" },
                };
                self.make(plan, kind, at)
            }
            "mod" => {
                let right = items.pop()?;
                self.arithmetic(Arithmetic::Modulo, items.pop()?, right, at)
            }
            "to_timestamp" => {
                let item = items.pop()?;
                match item.kind {
                    Some(Type::Bool) => {
                        let message = "expected a string or a number, found a bool".into();
                        self.wrong(item.at, message, Some(&format!("it is {usage}")))
                    }
                    _ => self.cast_node(item, Type::Timestamp),
                }
            }
            "date_trunc" | "date_part" => {
                let subject = items.pop()?;
                let unit = items.pop()?;
                let unit_at = unit.at;
                let Some(Scalar::Text(unit)) = unit.constant().cloned() else {
                    let message = "the unit must be a literal".into();
                    return self.wrong(unit_at, message, Some(&format!("it is {usage}")));
                };
                let cut = name == "date_trunc";
                self.instant(&unit.to_lowercase(), unit_at, subject, cut, usage, at)
            }
            "abs" | "round" | "floor" | "ceil" | "ceiling" => self.rounding(name, usage, items, at),
            "hmac_sha256" => {
                let key = items.pop()?;
                self.authenticate(items.pop()?, key, usage, at)
            }
            _ => self.regular(name, items, at),
        }
    }

    /// The hash of a text with a key, which a literal names: no value of a row chooses a key.
    fn authenticate(
        &mut self,
        subject: Typed,
        key: Typed,
        usage: &str,
        at: usize,
    ) -> Option<Typed> {
        let subject = self.argument(subject, TEXT, usage);
        let Some(Scalar::Text(name)) = key.constant().cloned() else {
            let message = "the name of the secret must be a literal".into();
            return self.wrong(key.at, message, Some(&format!("it is {usage}")));
        };
        let begins = |first: char| first.is_ascii_alphabetic() || first == '_';
        let is_name = |name: &str| name.chars().all(|next| begins(next) || next.is_ascii_digit());
        if !name.starts_with(begins) || !is_name(&name) {
            let message = "the name of a secret is made of letters, digits and `_`".into();
            let hint = "write its name here, and give its value to the process that runs this";
            return self.wrong(key.at, message, Some(hint));
        }
        let Some(secrets) = self.secrets else {
            let hint = "hash in the pipeline, and ask for the column that it gives";
            return self.wrong(key.at, "no secrets are used here".into(), Some(hint));
        };
        let key = match secrets.key(&name) {
            Ok(found) => found,
            Err(reason) => {
                let message = format!("the secret `{name}` cannot be used: {reason}");
                return self.wrong(key.at, message, None);
            }
        };
        self.keys.extend(key.as_ref().map(Secret::fingerprint));
        let function = Function::Authenticate { name: (&*name).into(), key };
        self.make(Plan::Call { function, arguments: vec![subject?.node] }, TEXT, at)
    }

    fn rounding(
        &mut self,
        name: &str,
        usage: &str,
        mut items: Vec<Typed>,
        at: usize,
    ) -> Option<Typed> {
        if items[0].is_decimal() {
            return self.rounded(name, usage, items, at);
        }
        if name == "abs" && items[0].kind == Some(Type::Int) {
            let function = Function::Absolute { double: false };
            let arguments = vec![items.remove(0).node];
            return self.make(Plan::Call { function, arguments }, INT, at);
        }
        if items[0].kind == Some(Type::Int) && items.len() == 1 {
            return items.pop(); // an int is whole already
        }
        let function = match name {
            "abs" => Function::Absolute { double: true },
            "round" => Function::Round,
            "floor" => Function::Floor,
            _ => Function::Ceil,
        };
        let mut arguments = Vec::with_capacity(items.len());
        for (item, takes) in items.into_iter().zip([FLOAT, INT]) {
            arguments.push(self.argument(item, takes, usage)?.node);
        }
        self.make(Plan::Call { function, arguments }, FLOAT, at)
    }

    /// The functions with a regular expression, which must be a literal, as must what follows it.
    fn regular(&mut self, name: &str, mut items: Vec<Typed>, at: usize) -> Option<Typed> {
        let instead = "strpos, contains or replace";
        let subject = self.text(items.remove(0), name)?;
        let pattern_at = items[0].at;
        let pattern = self.fixed_text(items.remove(0), name, instead)?;
        if name == "regexp_extract" {
            let group = match items.pop() {
                None => 0,
                Some(group) => match group.constant() {
                    Some(Scalar::Long(group @ 0..=999)) => *group as usize,
                    _ => {
                        let message = "the group must be a literal int from 0 on".into();
                        return self.wrong(group.at, message, None);
                    }
                },
            };
            let Some(pattern) = pattern else {
                return self.scalar(Scalar::Null, Some(TEXT), at);
            };
            return match Extractor::new(&pattern, group) {
                Ok(extractor) => {
                    let function = Function::Extract(extractor);
                    self.make(Plan::Call { function, arguments: vec![subject.node] }, TEXT, at)
                }
                Err(message) => self.wrong(pattern_at, message, None),
            };
        }
        let mut rest: Vec<Option<Arc<str>>> = Vec::new();
        for item in items {
            rest.push(self.fixed_text(item, name, instead)?);
        }
        let gives = if name == "regexp_like" { Type::Bool } else { TEXT };
        let rest: Option<Vec<_>> = rest.into_iter().collect();
        let (Some(pattern), Some(mut rest)) = (pattern, rest) else {
            return self.scalar(Scalar::Null, Some(gives), at);
        };
        if name == "regexp_like" {
            let flags = rest.pop().unwrap_or_default();
            let at = pattern_at;
            let pattern = self.scalar(Scalar::Text(pattern), Some(TEXT), at)?;
            return self.regex_match(subject, pattern, &flags);
        }
        let flags = if rest.len() > 1 { rest.pop()? } else { Arc::default() };
        match Replacer::new(&pattern, &rest.pop()?, &flags) {
            Ok(replacer) => {
                let function = Function::Substitute(replacer);
                self.make(Plan::Call { function, arguments: vec![subject.node] }, TEXT, at)
            }
            Err(message) => self.wrong(pattern_at, message, None),
        }
    }

    fn instant(
        &mut self,
        name: &str,
        name_at: usize,
        subject: Typed,
        cut: bool,
        usage: &str,
        at: usize,
    ) -> Option<Typed> {
        let unit = UNITS.iter().find(|(known, _)| *known == name).map(|(_, unit)| *unit);
        let never_cut = [Unit::DayOfWeek, Unit::IsoDayOfWeek, Unit::DayOfYear, Unit::Epoch];
        let Some(unit) = unit.filter(|unit| !cut || !never_cut.contains(unit)) else {
            let near = nearest(name, UNITS.iter().map(|(name, _)| *name));
            let hint = match near.filter(|near| *near != name) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "the units are microsecond, millisecond, second, minute, hour, day, week, \
                         month, quarter and year"
                    .to_owned(),
            };
            return self.wrong(name_at, format!("there is no unit `{name}` here"), Some(&hint));
        };
        let subject = match (subject.kind, subject.constant()) {
            (Some(Type::String), Some(Scalar::Text(text))) => {
                let text = Arc::clone(text);
                self.timestamp(&text, subject.at)?
            }
            _ => self.argument(subject, Type::Timestamp, usage)?,
        };
        let arguments = vec![subject.node];
        if cut {
            let function = Function::DateTrunc(unit);
            return self.make(Plan::Call { function, arguments }, Type::Timestamp, at);
        }
        let kind = if matches!(unit, Unit::Second | Unit::Epoch) { FLOAT } else { INT };
        self.make(Plan::Call { function: Function::DatePart(unit), arguments }, kind, at)
    }

    /// Checks what the grammar does not write as a call, and refuses the rest.
    pub(super) fn special(&mut self, ast: &Ast, at: usize) -> Option<Typed> {
        let what = match ast {
            Ast::Extract { field, expr, .. } => {
                let name = match field {
                    DateTimeField::Custom(ident) => ident.value.to_lowercase(),
                    field => unit_name(field),
                };
                let subject = self.operand(expr)?;
                if subject.span {
                    return self.seconds(&name, subject, at);
                }
                let usage = "extract(unit FROM timestamp)";
                return self.instant(&name, at, subject, false, usage, at);
            }
            Ast::Ceil { expr, field } | Ast::Floor { expr, field } => {
                if !matches!(field, CeilFloorKind::DateTimeField(DateTimeField::NoDateTime)) {
                    return self.unsupported("the second part of ceil or floor", at);
                }
                let name = if matches!(ast, Ast::Ceil { .. }) { "ceil" } else { "floor" };
                let argument = self.expr(expr);
                return self.apply(name, vec![argument], at);
            }
            Ast::Position { expr, r#in } => {
                let (wanted, text) = (self.expr(expr), self.expr(r#in));
                return self.apply("strpos", vec![text, wanted], at);
            }
            Ast::Substring { expr, substring_from, substring_for, .. } => {
                let mut arguments = vec![self.expr(expr)];
                match substring_from {
                    Some(from) => arguments.push(self.expr(from)),
                    None if substring_for.is_some() => {
                        arguments.push(self.scalar(Scalar::Long(1), Some(INT), at));
                    }
                    None => {}
                }
                if let Some(count) = substring_for {
                    arguments.push(self.expr(count));
                }
                return self.apply("substr", arguments, at);
            }
            Ast::Trim { trim_where, trim_what, expr, trim_characters } => {
                let name = match trim_where {
                    Some(TrimWhereField::Leading) => "ltrim",
                    Some(TrimWhereField::Trailing) => "rtrim",
                    _ => "trim",
                };
                let mut arguments = vec![self.expr(expr)];
                if let Some(what) = trim_what {
                    arguments.push(self.expr(what));
                }
                for what in trim_characters.iter().flatten() {
                    arguments.push(self.expr(what));
                }
                return self.apply(name, arguments, at);
            }
            Ast::Subquery(_) | Ast::Exists { .. } | Ast::InSubquery { .. } => "a subquery",
            Ast::AnyOp { .. } | Ast::AllOp { .. } | Ast::Like { .. } | Ast::ILike { .. } => {
                "ANY or ALL"
            }
            Ast::SimilarTo { .. } => "SIMILAR TO",
            Ast::RLike { .. } => "RLIKE",
            Ast::AtTimeZone { .. } => "AT TIME ZONE",
            Ast::Collate { .. } => "COLLATE",
            Ast::Array(_) | Ast::CompoundFieldAccess { .. } | Ast::InUnnest { .. } => "an array",
            Ast::Tuple(_) => "a tuple",
            Ast::JsonAccess { .. } | Ast::IsJson { .. } => "access to JSON",
            Ast::Overlay { .. } => "OVERLAY",
            Ast::Convert { .. } => "CONVERT",
            Ast::Cast { .. } => "FORMAT in CAST",
            Ast::Wildcard(_) | Ast::QualifiedWildcard(..) => "`*`",
            Ast::Lambda(_) => "a lambda",
            Ast::Prefixed { .. } => "a prefixed literal",
            Ast::Struct { .. } | Ast::Dictionary(_) | Ast::Map(_) => "a struct",
            Ast::Value(value) if matches!(value.value, Value::Placeholder(_)) => "a placeholder",
            _ => "this",
        };
        self.unsupported(what, at)
    }
}
