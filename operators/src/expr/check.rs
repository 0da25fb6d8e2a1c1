//! Check: syntax tree to typed plan. Collects all mistakes, folds constants.
//!
//! A subtree that has a mistake becomes `None` and is not complained about again further up.

use std::sync::Arc;

use sqlparser::ast::{
    AccessExpr, BinaryOperator, CastKind, DataType, Expr as Ast, FunctionArguments, Ident,
    ObjectNamePart, UnaryOperator, Value,
};

use crate::expr::evaluate::Run;
use crate::expr::near::nearest;
use crate::expr::parse::{NESTING_MAX, Places, too_deep};
use crate::expr::plan::{Arithmetic, Comparison, Domain, Function, Node, Plan};
use crate::expr::typing::{NULL_HINT, constants, type_of};
use crate::expr::vector::Scalar;
use crate::expr::{ExprError, Secrets, cast, instant};
use crate::types::{Schema, Type};

/// How deep the syntax tree may be; one level of nesting is up to three levels of tree.
const DEPTH_MAX: usize = 3 * NESTING_MAX;

/// A checked subexpression. The type of a bare NULL is not known.
#[derive(Clone)]
pub(super) struct Typed {
    pub(super) node: Arc<Node>,
    pub(super) kind: Option<Type>,
    pub(super) at: usize,
    /// Whether it is a span of time, in microseconds: no value of ours, see `interval`.
    pub(super) span: bool,
}

impl Typed {
    /// Returns the constant, if it is one.
    pub(super) fn constant(&self) -> Option<&Scalar> {
        match &self.node.plan {
            Plan::Constant(scalar) => Some(scalar),
            _ => None,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.kind.map_or("NULL", Type::name)
    }
}

/// The state of one check.
pub(super) struct Checker<'t> {
    pub(super) places: Places<'t>,
    pub(super) schema: &'t Schema,
    /// The keys that may be named; none where no secret may be used.
    pub(super) secrets: Option<&'t Secrets>,
    pub(super) errors: Vec<ExprError>,
    /// The columns that are read, by slot.
    pub(super) reads: Vec<(String, Type)>,
    /// The fingerprints of the keys that were named.
    pub(super) keys: Vec<String>,
    pub(super) depth: usize,
}

impl Checker<'_> {
    /// Notes a mistake; the `None` is the subtree that has it.
    pub(super) fn wrong<T>(&mut self, at: usize, message: String, hint: Option<&str>) -> Option<T> {
        self.errors.push(ExprError { at, message, hint: hint.map(str::to_owned) });
        None
    }

    /// Makes a node, computing it right away when everything below it is constant.
    pub(super) fn make(&mut self, plan: Plan, kind: Type, at: usize) -> Option<Typed> {
        let children = plan.children();
        let constant = !children.is_empty()
            && children.iter().all(|child| matches!(child.plan, Plan::Constant(_)));
        let Some(mut node) = Node::new(plan) else { return self.wrong(at, too_deep(), None) };
        if constant {
            let mut run = Run { columns: &[], rows: 1, errors: vec![] };
            let value = run.node(&node, None).scalar(0);
            // What fails stays as it is: it may stand in a branch that is never taken.
            if run.errors.is_empty() {
                node = Node::new(Plan::Constant(value))?;
            }
        }
        Some(Typed { node, kind: Some(kind), at, span: false })
    }

    pub(super) fn scalar(
        &mut self,
        scalar: Scalar,
        kind: Option<Type>,
        at: usize,
    ) -> Option<Typed> {
        Some(Typed { node: Node::new(Plan::Constant(scalar))?, kind, at, span: false })
    }

    /// Checks a subexpression.
    pub(super) fn expr(&mut self, ast: &Ast) -> Option<Typed> {
        let typed = self.operand(ast)?;
        self.no_span(typed)
    }

    /// Checks a subexpression that may be a span of time.
    pub(super) fn operand(&mut self, ast: &Ast) -> Option<Typed> {
        if self.depth >= DEPTH_MAX {
            let at = self.places.start(ast);
            return self.wrong(at, too_deep(), None);
        }
        self.depth += 1;
        let typed = self.any(ast);
        self.depth -= 1;
        typed
    }

    fn any(&mut self, ast: &Ast) -> Option<Typed> {
        let at = self.places.start(ast);
        match ast {
            Ast::Nested(inner) => self.operand(inner),
            Ast::Interval(interval) => self.interval(interval, at),
            Ast::Identifier(ident) => self.column(std::slice::from_ref(ident), at),
            Ast::CompoundIdentifier(idents) => self.column(idents, at),
            Ast::CompoundFieldAccess { root, access_chain } => match dotted(root, access_chain) {
                Some(idents) => self.column(&idents, at),
                None => self.special(ast, at),
            },
            Ast::Value(value) => self.literal(&value.value, at),
            Ast::TypedString(typed) => match (&typed.data_type, &typed.value.value) {
                (
                    DataType::Timestamp(..) | DataType::Date | DataType::Datetime(_),
                    Value::SingleQuotedString(text),
                ) => self.timestamp(text, at),
                (other, _) => {
                    let message = format!("{other} literals are not supported in expressions");
                    self.wrong(at, message, Some("TIMESTAMP '...' and DATE '...' are"))
                }
            },
            Ast::BinaryOp { .. } => self.binary(ast),
            Ast::UnaryOp { op, expr } => self.unary(op, expr, at),
            Ast::IsNull(inner) => self.is_null(inner, false, at),
            Ast::IsNotNull(inner) => self.is_null(inner, true, at),
            Ast::IsUnknown(inner) | Ast::IsNotUnknown(inner) => {
                let inner = self.expr(inner)?;
                let operand = self.truth(inner, "IS UNKNOWN")?.node;
                let negated = matches!(ast, Ast::IsNotUnknown(_));
                self.make(Plan::IsNull { operand, negated }, Type::Bool, at)
            }
            Ast::IsTrue(inner) => self.is(inner, true, false, at),
            Ast::IsNotTrue(inner) => self.is(inner, true, true, at),
            Ast::IsFalse(inner) => self.is(inner, false, false, at),
            Ast::IsNotFalse(inner) => self.is(inner, false, true, at),
            Ast::IsDistinctFrom(left, right) | Ast::IsNotDistinctFrom(left, right) => {
                let negated = matches!(ast, Ast::IsNotDistinctFrom(..));
                let (left, right) = (self.expr(left), self.expr(right));
                let mut items = [left?, right?];
                self.unify(&mut items, "IS DISTINCT FROM")?;
                let [left, right] = items.map(|item| item.node);
                self.make(Plan::Distinct { left, right, negated }, Type::Bool, at)
            }
            Ast::Between { expr, negated, low, high } => {
                let (operand, low, high) = (self.expr(expr), self.expr(low), self.expr(high));
                let mut items = [operand?, low?, high?];
                self.unify(&mut items, "BETWEEN")?;
                let [operand, low, high] = items.map(|item| item.node);
                let between = self.make(Plan::Between { operand, low, high }, Type::Bool, at)?;
                self.negate_if(*negated, between)
            }
            Ast::InList { expr, list, negated } => self.in_list(expr, list, *negated, at),
            Ast::Like { negated, any: false, expr, pattern, escape_char } => {
                self.like(expr, pattern, escape_char.as_deref(), false, *negated)
            }
            Ast::ILike { negated, any: false, expr, pattern, escape_char } => {
                self.like(expr, pattern, escape_char.as_deref(), true, *negated)
            }
            Ast::Case { operand, conditions, else_result, .. } => {
                self.case(operand.as_deref(), conditions, else_result.as_deref(), at)
            }
            Ast::Cast { kind, expr, data_type, format: None } => {
                self.cast_to(expr, data_type, kind, at)
            }
            Ast::Function(function) => self.function(function, at),
            _ => self.special(ast, at),
        }
    }

    fn column(&mut self, idents: &[Ident], at: usize) -> Option<Typed> {
        let name = idents.iter().map(|ident| ident.value.as_str()).collect::<Vec<_>>().join(".");
        let Some(column) = self.schema.column(&name) else {
            let names = self.schema.columns().iter().map(|column| column.name.as_str());
            let quoted = idents.iter().any(|ident| ident.quote_style.is_some());
            let hint = match nearest(&name, names.clone()) {
                Some(near) => format!("did you mean `{near}`?"),
                None if quoted => "text stands in single quotes, names in double quotes".into(),
                None => known(names),
            };
            return self.wrong(at, format!("there is no column `{name}`"), Some(&hint));
        };
        let kind = column.kind;
        let slot = self.reads.iter().position(|(read, _)| *read == name).unwrap_or_else(|| {
            self.reads.push((name, kind));
            self.reads.len() - 1
        });
        Some(Typed { node: Node::new(Plan::Column { slot })?, kind: Some(kind), at, span: false })
    }

    fn literal(&mut self, value: &Value, at: usize) -> Option<Typed> {
        match value {
            Value::Number(digits, false) => self.number(digits, at),
            Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => {
                self.scalar(Scalar::Text(text.as_str().into()), Some(Type::String), at)
            }
            Value::DollarQuotedString(text) => {
                self.scalar(Scalar::Text(text.value.as_str().into()), Some(Type::String), at)
            }
            Value::Boolean(value) => self.scalar(Scalar::Bool(*value), Some(Type::Bool), at),
            Value::Null => self.scalar(Scalar::Null, None, at),
            other => {
                let message = format!("the literal {other} is not supported in expressions");
                self.wrong(at, message, None)
            }
        }
    }

    fn number(&mut self, digits: &str, at: usize) -> Option<Typed> {
        let digits = digits.replace('_', "");
        if let Ok(value) = digits.parse::<i64>() {
            return self.scalar(Scalar::Long(value), Some(Type::Int), at);
        }
        if !digits.trim_start_matches('-').bytes().all(|byte| byte.is_ascii_digit())
            && let Ok(value) = digits.parse::<f64>()
            && value.is_finite()
        {
            return self.scalar(Scalar::Double(value), Some(Type::Float), at);
        }
        let hint = "an int has 64 bits; write 1e30 for a float";
        self.wrong(at, format!("the number {digits} is too large"), Some(hint))
    }

    pub(super) fn timestamp(&mut self, text: &str, at: usize) -> Option<Typed> {
        match instant::parse(text) {
            Some(micros) => self.scalar(Scalar::Long(micros), Some(Type::Timestamp), at),
            None => {
                let hint = "write it like 2026-01-31T12:00:00Z, or 2026-01-31 for midnight in UTC";
                self.wrong(at, format!("'{text}' is not a timestamp"), Some(hint))
            }
        }
    }

    /// Walks the chain of left operands in a loop, so that a long chain needs no stack.
    fn binary(&mut self, ast: &Ast) -> Option<Typed> {
        let mut chain = Vec::new();
        let mut first = ast;
        while let Ast::BinaryOp { left, op, right } = first {
            chain.push((op, right.as_ref()));
            first = left;
        }
        let mut result = self.operand(first);
        while let Some((op, right)) = chain.pop() {
            let right = self.operand(right);
            if !matches!(
                op,
                BinaryOperator::And | BinaryOperator::Or | BinaryOperator::StringConcat
            ) {
                result = match (result, right) {
                    (Some(left), Some(right)) => self.pair(op, left, right),
                    _ => None,
                };
                continue;
            }
            // All that the same operator joins becomes one node.
            let mut items = [result, right].map(|item| self.no_span(item?)).to_vec();
            while let Some((_, right)) = chain.pop_if(|(next, _)| *next == op) {
                items.push(self.expr(right));
            }
            let items: Option<Vec<Typed>> = items.into_iter().collect();
            result = items.and_then(|items| self.join(op, items));
        }
        result
    }

    fn join(&mut self, op: &BinaryOperator, items: Vec<Typed>) -> Option<Typed> {
        let at = items.first().map_or(0, |item| item.at);
        if *op == BinaryOperator::StringConcat {
            if !items.iter().any(|item| matches!(item.kind, Some(Type::String) | None)) {
                let hint = "cast one of them, as in CAST(a AS string)";
                return self.wrong(at, "`||` joins text, and here is none".into(), Some(hint));
            }
            let items = self.all_text(items)?;
            return self.make(Plan::Concat { items, strict: true }, Type::String, at);
        }
        let what = if *op == BinaryOperator::And { "AND" } else { "OR" };
        let items: Vec<_> = items.into_iter().map(|item| self.truth(item, what)).collect();
        let items =
            items.into_iter().map(|item| item.map(|item| item.node)).collect::<Option<_>>()?;
        let plan = if *op == BinaryOperator::And { Plan::And(items) } else { Plan::Or(items) };
        self.make(plan, Type::Bool, at)
    }

    fn pair(&mut self, op: &BinaryOperator, left: Typed, right: Typed) -> Option<Typed> {
        let (at, name) = (left.at, op.to_string());
        if Self::is_of_time(op, &left, &right) {
            return self.pair_of_time(op, left, right);
        }
        let comparison = match op {
            BinaryOperator::Eq => Comparison::Equal,
            BinaryOperator::NotEq => Comparison::NotEqual,
            BinaryOperator::Lt => Comparison::Less,
            BinaryOperator::LtEq => Comparison::LessEqual,
            BinaryOperator::Gt => Comparison::Greater,
            BinaryOperator::GtEq => Comparison::GreaterEqual,
            BinaryOperator::Plus => return self.arithmetic(Arithmetic::Add, left, right, at),
            BinaryOperator::Minus => return self.arithmetic(Arithmetic::Subtract, left, right, at),
            BinaryOperator::Multiply => {
                return self.arithmetic(Arithmetic::Multiply, left, right, at);
            }
            BinaryOperator::Divide => return self.arithmetic(Arithmetic::Divide, left, right, at),
            BinaryOperator::Modulo => return self.arithmetic(Arithmetic::Modulo, left, right, at),
            BinaryOperator::PGRegexMatch => return self.regex_pair(left, right, "", false),
            BinaryOperator::PGRegexIMatch => return self.regex_pair(left, right, "i", false),
            BinaryOperator::PGRegexNotMatch => return self.regex_pair(left, right, "", true),
            BinaryOperator::PGRegexNotIMatch => return self.regex_pair(left, right, "i", true),
            _ => {
                let hint = match op {
                    BinaryOperator::PGExp => Some("use power(a, b)"),
                    BinaryOperator::PGOverlap => Some("SQL says AND"),
                    _ => None,
                };
                let message = format!("the operator `{name}` is not supported in expressions");
                return self.wrong(at, message, hint);
            }
        };
        let mut items = [left, right];
        self.unify(&mut items, &format!("`{name}`"))?;
        let [left, right] = items.map(|item| item.node);
        self.make(Plan::Compare { op: comparison, left, right }, Type::Bool, at)
    }

    pub(super) fn arithmetic(
        &mut self,
        op: Arithmetic,
        left: Typed,
        right: Typed,
        at: usize,
    ) -> Option<Typed> {
        let mut items = [left, right];
        for item in &items {
            if !matches!(item.kind, Some(Type::Int | Type::Float | Type::Decimal(_)) | None) {
                let hint = match item.kind {
                    Some(Type::String) if op == Arithmetic::Add => {
                        "join text with `||`, or cast it, as in CAST(a AS int)"
                    }
                    Some(Type::String) => "cast it, as in CAST(a AS int)",
                    Some(Type::Timestamp) => "extract(epoch FROM t) gives seconds",
                    _ => "cast it, as in CAST(a AS int)",
                };
                let message = format!("`{}` takes numbers, not a {}", op.sign(), item.name());
                return self.wrong(item.at, message, Some(hint));
            }
        }
        let is_float = items.iter().any(|item| item.kind == Some(Type::Float));
        if !is_float && items.iter().any(Typed::is_decimal) {
            return self.exactly(op, items, at);
        }
        let Some(kind) = self.unify(&mut items, &format!("`{}`", op.sign()))? else {
            return self.wrong(at, "cannot tell the type of NULL".into(), Some(NULL_HINT));
        };
        let domain = if kind == Type::Float { Domain::Double } else { Domain::Long };
        let [left, right] = items.map(|item| item.node);
        self.make(Plan::Arithmetic { op, domain, left, right }, kind, at)
    }

    fn unary(&mut self, op: &UnaryOperator, inner: &Ast, at: usize) -> Option<Typed> {
        if *op == UnaryOperator::Minus
            && let Ast::Value(value) = inner
            && let Value::Number(digits, false) = &value.value
        {
            // Together with its sign, or the smallest int could not be written.
            return self.number(&format!("-{digits}"), at);
        }
        let operand = self.expr(inner)?;
        match op {
            UnaryOperator::Not => {
                let operand = self.truth(operand, "NOT")?;
                self.negate_if(true, operand)
            }
            UnaryOperator::Plus | UnaryOperator::Minus => match operand.kind {
                Some(kind @ (Type::Int | Type::Float | Type::Decimal(_)))
                    if *op == UnaryOperator::Minus =>
                {
                    let function = Function::Negate { double: kind != Type::Int };
                    self.make(Plan::Call { function, arguments: vec![operand.node] }, kind, at)
                }
                Some(Type::Int | Type::Float | Type::Decimal(_)) | None => Some(operand),
                Some(kind) => {
                    let message = format!("`{op}` takes a number, not a {kind}");
                    self.wrong(operand.at, message, None)
                }
            },
            _ => {
                let message = format!("the operator `{op}` is not supported in expressions");
                self.wrong(at, message, hint_for_unary(op))
            }
        }
    }

    pub(super) fn negate_if(&mut self, negated: bool, typed: Typed) -> Option<Typed> {
        if negated { self.make(Plan::Not(typed.node), Type::Bool, typed.at) } else { Some(typed) }
    }

    fn is_null(&mut self, inner: &Ast, negated: bool, at: usize) -> Option<Typed> {
        let operand = self.expr(inner)?.node;
        self.make(Plan::IsNull { operand, negated }, Type::Bool, at)
    }

    fn is(&mut self, inner: &Ast, wanted: bool, negated: bool, at: usize) -> Option<Typed> {
        let inner = self.expr(inner)?;
        let operand = self.truth(inner, if wanted { "IS TRUE" } else { "IS FALSE" })?.node;
        self.make(Plan::Is { operand, wanted, negated }, Type::Bool, at)
    }

    fn in_list(&mut self, expr: &Ast, list: &[Ast], negated: bool, at: usize) -> Option<Typed> {
        let mut items = vec![self.expr(expr)];
        for item in list {
            items.push(self.expr(item));
        }
        let mut items: Vec<Typed> = items.into_iter().collect::<Option<_>>()?;
        self.unify(&mut items, "IN")?;
        let operand = items.remove(0).node;
        let plan = match constants(&items) {
            Some((set, has_null)) => Plan::InSet { operand, set, has_null },
            None => {
                Plan::InList { operand, items: items.into_iter().map(|item| item.node).collect() }
            }
        };
        let found = self.make(plan, Type::Bool, at)?;
        self.negate_if(negated, found)
    }

    fn case(
        &mut self,
        operand: Option<&Ast>,
        conditions: &[sqlparser::ast::CaseWhen],
        otherwise: Option<&Ast>,
        at: usize,
    ) -> Option<Typed> {
        let operand = match operand.map(|operand| self.expr(operand)) {
            Some(operand) => Some(operand?),
            None => None,
        };
        let (mut whens, mut thens) = (Vec::new(), Vec::new());
        for branch in conditions {
            let when = self.expr(&branch.condition);
            whens.push(match (&operand, when) {
                (None, Some(when)) => self.truth(when, "WHEN"),
                (_, when) => when,
            });
            thens.push(self.expr(&branch.result));
        }
        thens.push(match otherwise {
            Some(otherwise) => self.expr(otherwise),
            None => self.scalar(Scalar::Null, None, at),
        });
        let mut whens: Vec<Typed> = whens.into_iter().collect::<Option<_>>()?;
        let mut thens: Vec<Typed> = thens.into_iter().collect::<Option<_>>()?;
        let operand = match operand {
            Some(operand) => {
                whens.insert(0, operand);
                self.unify(&mut whens, "CASE")?;
                Some(whens.remove(0).node)
            }
            None => None,
        };
        let Some(kind) = self.unify(&mut thens, "CASE")? else {
            return self.wrong(at, "cannot tell the type of CASE".into(), Some(NULL_HINT));
        };
        let otherwise = thens.pop()?.node;
        let branches = whens.into_iter().zip(thens).map(|(a, b)| (a.node, b.node)).collect();
        self.make(Plan::Case { operand, branches, otherwise }, kind, at)
    }

    fn cast_to(&mut self, expr: &Ast, to: &DataType, kind: &CastKind, at: usize) -> Option<Typed> {
        let operand = self.expr(expr);
        let Some(to) = type_of(to) else {
            let message = format!("there is no type {to}");
            let hint = "the types are string, int, float, bool, timestamp, and decimal(12,2) \
                        with up to 38 digits";
            return self.wrong(at, message, Some(hint));
        };
        let operand = operand?;
        let Some(from) = operand.kind else {
            return self.scalar(Scalar::Null, Some(to), at);
        };
        if from == to {
            return Some(operand);
        }
        if !cast::exists(from, to) {
            return self.wrong(at, format!("a {from} cannot become a {to}"), None);
        }
        let lenient = matches!(kind, CastKind::TryCast | CastKind::SafeCast);
        self.make(Plan::Cast { operand: operand.node, from, to, lenient }, to, at)
    }
}

fn hint_for_unary(op: &UnaryOperator) -> Option<&'static str> {
    match op {
        UnaryOperator::BangNot | UnaryOperator::PGPrefixFactorial => Some("SQL says NOT"),
        UnaryOperator::PGSquareRoot => Some("use sqrt(a)"),
        UnaryOperator::PGAbs => Some("use abs(a)"),
        _ => None,
    }
}

/// Reads `user.id`, which to the parser is a field of the call `user`, as one name.
fn dotted(root: &Ast, chain: &[AccessExpr]) -> Option<Vec<Ident>> {
    let mut idents = match root {
        Ast::Identifier(ident) => vec![ident.clone()],
        Ast::Function(call) if matches!(call.args, FunctionArguments::None) => {
            let ident = |part: &ObjectNamePart| part.as_ident().cloned();
            call.name.0.iter().map(ident).collect::<Option<_>>()?
        }
        _ => return None,
    };
    for access in chain {
        match access {
            AccessExpr::Dot(Ast::Identifier(ident)) => idents.push(ident.clone()),
            _ => return None,
        }
    }
    Some(idents)
}

/// Lists names for a hint.
fn known<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.take(13).collect();
    if names.is_empty() {
        return "there are no columns here".into();
    }
    if names.len() == 13 {
        names[12] = "...";
    }
    format!("the columns are {}", names.join(", "))
}
