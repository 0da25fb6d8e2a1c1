//! Expressions that hash with secrets: what they give, and where a secret may stand.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{RecordBatch, StringViewArray};
use tidemill_operators::expr::{Expr, Secret, Secrets, compile, compile_aggregate, compile_with};
use tidemill_operators::{Column, Schema, Type};

const KEY: &[u8] = b"correct horse battery staple";
const SHORT: &str = "its value has 2 bytes";

fn schema() -> Schema {
    Schema::new(vec![Column::new("user", Type::String), Column::new("n", Type::Int)])
}

fn secrets(key: &[u8]) -> Secrets {
    let of = |key| Secret::new(key).ok_or_else(|| SHORT.to_owned());
    Secrets::new([("PEPPER".to_owned(), of(key)), ("SHORT".to_owned(), of(b"no"))].into())
}

/// Evaluates an expression for the users `ann` and NULL.
fn cells(expr: &Expr) -> Vec<Option<String>> {
    let schema = Schema::new(vec![Column::new("user", Type::String)]).arrow();
    let users = Arc::new(StringViewArray::from(vec![Some("ann"), None]));
    let evaluated = expr.evaluate(&RecordBatch::try_new(schema, vec![users]).unwrap());
    let values = evaluated.values.as_string_view();
    if let Some(error) = evaluated.errors.first() {
        return vec![Some(format!("row {}: {}", error.row, error.message))];
    }
    values.iter().map(|cell| cell.map(str::to_owned)).collect()
}

#[test]
fn a_text_is_hashed_as_others_do_it_and_null_stays_null() {
    // printf ann | openssl dgst -sha256 -hmac 'correct horse battery staple'
    let ann = "609632aa70237a357249f04c0bf2c8e2e3c9eed588c8216a91f57c48a974be02";
    let expr = compile_with("hmac_sha256(user, 'PEPPER')", &schema(), &secrets(KEY)).unwrap();
    assert_eq!(cells(&expr), [Some(ann.to_owned()), None]);
    assert!(!expr.is_fallible() && !format!("{expr:?}").contains("horse"));

    let expr = compile_with(
        "concat('u-', substr(hmac_sha256('ann', 'PEPPER'), 1, 8))",
        &schema(),
        &secrets(KEY),
    );
    assert_eq!(cells(&expr.unwrap()), vec![Some("u-609632aa".to_owned()); 2]);
}

#[test]
fn what_is_no_use_of_a_secret_is_a_mistake() {
    let check = |text: &str, expected: &str| {
        let errors = compile_with(text, &schema(), &secrets(KEY)).err().unwrap_or_default();
        let shown: Vec<_> = errors.iter().map(|one| format!("{}: {one}", one.at)).collect();
        assert_eq!(shown, [expected], "{text}");
    };
    let usage = "(it is hmac_sha256(string, 'NAME_OF_A_SECRET'))";
    check("hmac_sha256(user)", &format!("0: hmac_sha256 does not take 1 argument {usage}"));
    check("hmac_sha256(n, 'PEPPER')", &format!("12: expected a string, found an int {usage}"));
    check(
        "hmac_sha256(user, user)",
        &format!("18: the name of the secret must be a literal {usage}"),
    );
    check(
        "hmac_sha256(user, 'my own pepper!')",
        "18: the name of a secret is made of letters, digits and `_` (write its name here, and give \
         its value to the process that runs this)",
    );
    check(
        "hmac_sha256(user, 'SHORT')",
        "18: the secret `SHORT` cannot be used: its value has 2 bytes",
    );
    let errors = compile("hmac_sha256(user, 'PEPPER')", &schema()).unwrap_err();
    assert_eq!(errors[0].message, "no secrets are used here");
}

#[test]
fn a_secret_that_is_not_given_is_remembered_and_fails_each_row() {
    let all = secrets(KEY);
    let expr = compile_with("hmac_sha256(user, 'SALT')", &schema(), &all).unwrap();
    assert_eq!(cells(&expr), [Some("row 0: there is no key `SALT`".to_owned())]);
    assert!(expr.is_fallible());
    assert_eq!(all.lacking(), ["SALT"]);
    assert_eq!(all.anew().lacking(), [""; 0]);
    let of_tests = compile_with("hmac_sha256(user, 'SALT')", &schema(), &Secrets::of_tests());
    assert_eq!(cells(&of_tests.unwrap()).len(), 2);
}

#[test]
fn the_key_counts_and_does_not_show() {
    let keys = |key: &[u8]| {
        let text = "hmac_sha256(user, 'PEPPER')";
        compile_with(text, &schema(), &secrets(key)).unwrap().key_fingerprints().to_vec()
    };
    assert_eq!(keys(KEY), keys(KEY));
    assert_ne!(keys(KEY), keys(b"another key of some length"));
    let picked = "first(n ORDER BY hmac_sha256(user, 'PEPPER'))";
    let picked = compile_aggregate(picked, &schema(), &secrets(KEY)).unwrap();
    assert!(picked.expressions().any(|one| one.key_fingerprints() == keys(KEY)));
}
