//! Matching: LIKE and regular expressions, whose pattern must be known when they are checked. Part
//! of the checker.

use sqlparser::ast::Expr as Ast;

use crate::expr::check::{Checker, Typed};
use crate::expr::pattern::Pattern;
use crate::expr::plan::{Comparison, Function, Node, Plan};
use crate::expr::vector::Scalar;
use crate::types::Type;

impl Checker<'_> {
    pub(super) fn like(
        &mut self,
        expr: &Ast,
        pattern: &Ast,
        escape: Option<&Ast>,
        ignore_case: bool,
        negated: bool,
    ) -> Option<Typed> {
        let (subject, pattern) = (self.expr(expr), self.expr(pattern));
        let escape = match escape.map(|escape| self.expr(escape)) {
            None => Some('\\'),
            Some(escape) => {
                let escape = escape?;
                let Some(Scalar::Text(text)) = escape.constant() else {
                    return self.wrong(escape.at, "ESCAPE takes one character".into(), None);
                };
                let mut chars = text.chars();
                let char = chars.next();
                if chars.next().is_some() {
                    return self.wrong(escape.at, "ESCAPE takes one character".into(), None);
                }
                char
            }
        };
        let (subject, pattern) = (subject?, pattern?);
        let what = if ignore_case { "ILIKE" } else { "LIKE" };
        let subject = self.text(subject, what)?;
        let at = pattern.at;
        let Some(text) = self.fixed_text(pattern, what, "starts_with(a, b) or contains(a, b)")?
        else {
            return self.scalar(Scalar::Null, Some(Type::Bool), at);
        };
        match Pattern::like(&text, escape, ignore_case) {
            Ok(pattern) => {
                let matched = self.matching(subject, pattern)?;
                self.negate_if(negated, matched)
            }
            Err(message) => self.wrong(at, message, None),
        }
    }

    pub(super) fn regex_pair(
        &mut self,
        subject: Typed,
        pattern: Typed,
        flags: &str,
        negated: bool,
    ) -> Option<Typed> {
        let matched = self.regex_match(subject, pattern, flags)?;
        self.negate_if(negated, matched)
    }

    pub(super) fn regex_match(
        &mut self,
        subject: Typed,
        pattern: Typed,
        flags: &str,
    ) -> Option<Typed> {
        let subject = self.text(subject, "a regular expression")?;
        let at = pattern.at;
        let Some(text) = self.fixed_text(pattern, "a regular expression", "contains(a, b)")? else {
            return self.scalar(Scalar::Null, Some(Type::Bool), at);
        };
        match Pattern::regex(&text, flags) {
            Ok(pattern) => self.matching(subject, pattern),
            Err(message) => self.wrong(at, message, None),
        }
    }

    fn matching(&mut self, subject: Typed, pattern: Pattern) -> Option<Typed> {
        let at = subject.at;
        // An exact pattern is a comparison, which is quicker still.
        let plan = match pattern {
            Pattern::Equal(text) => Plan::Compare {
                op: Comparison::Equal,
                left: subject.node,
                right: Node::new(Plan::Constant(Scalar::Text(text.into())))?,
            },
            pattern => {
                Plan::Call { function: Function::Matches(pattern), arguments: vec![subject.node] }
            }
        };
        self.make(plan, Type::Bool, at)
    }
}
