//! Aggregate: one call of an aggregate function, as it stands in `compute:`.
//!
//! Owns which functions there are for users, how they are written, and what is said of a call that is
//! none. What they compute is the business of [`crate::aggregate`].

use sqlparser::ast::{Expr as Ast, OrderByExpr, OrderBySort};

use crate::aggregate::{Computed, Function, Share, Sort};
use crate::expr::call::Called;
use crate::expr::check::Checker;
use crate::expr::near::nearest;
use crate::expr::vector::Scalar;
use crate::expr::{Expr, ExprError, Secrets, begin, done, on_own_stack, sorted};
use crate::types::{Schema, Type};

/// The names of the aggregate functions.
pub(super) const AGGREGATES: [&str; 18] = [
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "first",
    "last",
    "arg_min",
    "arg_max",
    "variance",
    "var_samp",
    "var_pop",
    "stddev",
    "stddev_samp",
    "stddev_pop",
    "approx_distinct",
    "approx_quantile",
    "approx_median",
];

const USAGE: &str = "write for example count(*), count(DISTINCT x), sum(x), avg(x), min(x), \
                     first(x ORDER BY t) or approx_quantile(x, 0.9)";

/// One aggregate call: what is computed over which expression.
#[derive(Clone, Debug)]
pub struct Aggregate {
    /// What is computed.
    pub function: Function,
    /// Over which expression; `None` for `count(*)`.
    pub argument: Option<Expr>,
    /// What rows are ordered by, for a function that picks one.
    pub order: Vec<OrderBy>,
    /// The type of the result.
    pub kind: Type,
    text: String,
}

/// One thing that rows are ordered by.
#[derive(Clone, Debug)]
pub struct OrderBy {
    /// What is compared.
    pub by: Expr,
    /// How.
    pub sort: Sort,
}

impl Aggregate {
    /// Returns the text of the whole call.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the expressions that are evaluated for each row.
    pub fn expressions(&self) -> impl Iterator<Item = &Expr> {
        self.argument.iter().chain(self.order.iter().map(|order| &order.by))
    }

    /// Returns what the operator computes; `has_place` says whether its rows are still records of
    /// files, and so have an arrival that orders those that are equal otherwise.
    pub fn computed(&self, name: &str, has_place: bool) -> Computed {
        Computed {
            name: name.to_owned(),
            function: self.function,
            argument: self.argument.as_ref().map(Expr::kind),
            order: self.order.iter().map(|order| order.sort).collect(),
            arrival: self.function.is_pick() && has_place,
            kind: self.kind,
        }
    }
}

/// Compiles one aggregate call, or returns all its mistakes.
pub fn compile_aggregate(
    text: &str,
    schema: &Schema,
    secrets: &Secrets,
) -> Result<Aggregate, Vec<ExprError>> {
    on_own_stack(|| {
        let (ast, mut checker) = begin(text, schema, Some(secrets))?;
        let found = call(text, &mut checker, &ast);
        found.ok_or_else(|| sorted(checker.errors))
    })
}

/// How a function is called.
struct Shape<'a> {
    function: Function,
    argument: Option<&'a Ast>,
    order: Vec<(&'a Ast, bool, bool)>,
}

fn call(text: &str, checker: &mut Checker<'_>, ast: &Ast) -> Option<Aggregate> {
    let at = checker.places.start(ast);
    let Ast::Function(written) = ast else {
        return checker.wrong(at, "expected one aggregate call".into(), Some(USAGE));
    };
    let called = checker.called(written, at)?;
    let Shape { function, argument, order } = shape(checker, &called, at)?;
    let mut expression = |ast: &Ast, as_float: bool| {
        let typed = match checker.expr(ast) {
            Some(typed) if as_float && typed.is_decimal() => checker.cast_node(typed, Type::Float),
            typed => typed,
        };
        done(text, checker, typed)
    };
    let argument = match argument {
        Some(ast) => Some(expression(ast, function.is_of_floats())?),
        None => None,
    };
    let mut ordered = Vec::with_capacity(order.len());
    for (ast, descending, nulls_first) in order {
        let by = expression(ast, false)?;
        let sort = Sort { kind: by.kind(), descending, nulls_first };
        ordered.push(OrderBy { by, sort });
    }
    let kind = result_kind(function, argument.as_ref().map(Expr::kind));
    let text = text.to_owned();
    match kind {
        Ok(kind) => Some(Aggregate { function, argument, order: ordered, kind, text }),
        Err((message, hint)) => {
            let at = called.arguments.first().map_or(at, |ast| checker.places.start(ast));
            checker.wrong(at, message, Some(hint))
        }
    }
}

/// Takes the arguments of a call apart.
fn shape<'a>(checker: &mut Checker<'_>, called: &Called<'a>, at: usize) -> Option<Shape<'a>> {
    let name = called.name.as_str();
    if called.distinct && name != "count" {
        let hint = match name {
            "min" | "max" => "it makes no difference here: leave it out",
            _ => "only count(DISTINCT x) takes it",
        };
        return checker.wrong(at, format!("{name} does not take DISTINCT"), Some(hint));
    }
    if !called.order.is_empty() && !matches!(name, "first" | "last") {
        let hint = "only first(x ORDER BY t) and last(x ORDER BY t) take it";
        return checker.wrong(at, format!("{name} does not take ORDER BY"), Some(hint));
    }
    let function = match name {
        "count" if called.star && !called.distinct => Function::CountAll,
        "count" if called.distinct => Function::CountDistinct,
        "count" => Function::Count,
        "sum" => Function::Sum,
        "avg" => Function::Avg,
        "min" => Function::Min,
        "max" => Function::Max,
        "first" => Function::First,
        "last" => Function::Last,
        "arg_min" => Function::ArgMin,
        "arg_max" => Function::ArgMax,
        "var_samp" | "variance" => Function::VarSamp,
        "var_pop" => Function::VarPop,
        "stddev_samp" | "stddev" => Function::StddevSamp,
        "stddev_pop" => Function::StddevPop,
        "approx_distinct" => Function::ApproxDistinct,
        "approx_median" => Function::ApproxQuantile(Share::new(0.5)?),
        "approx_quantile" => return quantile(checker, called, at),
        other => return unknown(checker, other, at),
    };
    match (function, called.star, called.arguments.as_slice()) {
        (Function::CountAll, true, []) => Some(Shape { function, argument: None, order: vec![] }),
        (Function::ArgMin | Function::ArgMax, false, [argument, by]) => {
            let order = vec![(*by, false, true)];
            Some(Shape { function, argument: Some(argument), order })
        }
        (Function::ArgMin | Function::ArgMax, ..) => {
            let hint = format!("{name}(x, t) gives the x of the row with that t");
            checker.wrong(at, format!("{name} takes two arguments"), Some(&hint))
        }
        (_, false, [argument]) => {
            let order = called.order.iter().map(|order| sort(checker, order));
            let order = order.collect::<Option<Vec<_>>>()?;
            Some(Shape { function, argument: Some(argument), order })
        }
        _ => checker.wrong(at, format!("{name} takes one argument"), Some(USAGE)),
    }
}

/// Reads one item of an ORDER BY: what it is, whether it descends, whether NULL comes first.
fn sort<'a>(checker: &mut Checker<'_>, order: &'a OrderByExpr) -> Option<(&'a Ast, bool, bool)> {
    let at = checker.places.start(&order.expr);
    let descending = match &order.options.sort {
        None | Some(OrderBySort::Asc) => false,
        Some(OrderBySort::Desc) => true,
        Some(_) => return checker.wrong(at, "an order is ASC or DESC".into(), None),
    };
    if order.with_fill.is_some() {
        return checker.unsupported("WITH FILL", at);
    }
    // Where nothing is said, NULL comes before all values, and after them when it descends.
    Some((&order.expr, descending, order.options.nulls_first.unwrap_or(!descending)))
}

fn quantile<'a>(checker: &mut Checker<'_>, called: &Called<'a>, at: usize) -> Option<Shape<'a>> {
    const HINT: &str = "for example approx_quantile(x, 0.99)";
    let (false, [argument, share]) = (called.star, called.arguments.as_slice()) else {
        let message = "approx_quantile takes a number and a share".into();
        return checker.wrong(at, message, Some(HINT));
    };
    let at = checker.places.start(share);
    let typed = checker.expr(share)?;
    let share = match typed.constant() {
        Some(Scalar::Double(share)) => Share::new(*share),
        Some(Scalar::Long(share)) => Share::new(*share as f64),
        _ => None,
    };
    let Some(share) = share else {
        return checker.wrong(at, "a share is a literal from 0 to 1".into(), Some(HINT));
    };
    let function = Function::ApproxQuantile(share);
    Some(Shape { function, argument: Some(argument), order: vec![] })
}

fn unknown<T>(checker: &mut Checker<'_>, name: &str, at: usize) -> Option<T> {
    let hint = match (name, nearest(name, AGGREGATES)) {
        ("mean" | "average", _) => "use avg(x)".to_owned(),
        ("median" | "percentile_cont" | "percentile_disc" | "quantile" | "percentile", _) => {
            "approx_median(x) and approx_quantile(x, 0.9) are right to 0.8%; there is no exact one"
                .to_owned()
        }
        ("approx_count_distinct" | "uniq" | "ndv", _) => {
            "count(DISTINCT x) is exact, approx_distinct(x) needs less memory".to_owned()
        }
        ("min_by" | "argmin", _) => "use arg_min(x, t)".to_owned(),
        ("max_by" | "argmax", _) => "use arg_max(x, t)".to_owned(),
        ("any_value" | "first_value", _) => "use first(x)".to_owned(),
        ("last_value", _) => "use last(x)".to_owned(),
        ("bool_or" | "any", _) => "use max(CAST(x AS int))".to_owned(),
        ("bool_and" | "every", _) => "use min(CAST(x AS int))".to_owned(),
        (_, Some(near)) => format!("did you mean `{near}`?"),
        (_, None) => USAGE.to_owned(),
    };
    checker.wrong(at, format!("there is no aggregate function `{name}`"), Some(&hint))
}

fn result_kind(function: Function, argument: Option<Type>) -> Result<Type, (String, &'static str)> {
    let word = function.name();
    match (function, argument) {
        (Function::Min | Function::Max, Some(Type::Bool)) => {
            let hint = "cast it, as in max(CAST(x AS int))";
            Err(("min and max do not take a bool".to_owned(), hint))
        }
        (function, argument) => match (function.result(argument), argument) {
            (Some(kind), _) => Ok(kind),
            (None, Some(Type::Timestamp)) => {
                let hint = "extract(epoch FROM x) gives seconds";
                Err((format!("{word} takes numbers, not a timestamp"), hint))
            }
            (None, Some(kind)) => {
                let hint = "cast it, as in sum(CAST(x AS int))";
                Err((format!("{word} takes numbers, not a {kind}"), hint))
            }
            (None, None) => Err((format!("{word} takes one argument"), USAGE)),
        },
    }
}
