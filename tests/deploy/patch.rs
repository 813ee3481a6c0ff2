//! JSON Patch (RFC 6902), as the operator applies `cnpg.io/podPatch`.

use serde_json::Value;

/// Applies `patch`, a list of operations.
pub(super) fn apply(to: &Value, patch: &Value) -> Result<Value, String> {
    let mut changed = to.clone();
    for operation in patch.as_array().ok_or("a patch is a list")? {
        one(&mut changed, operation).map_err(|why| format!("{operation}: {why}"))?;
    }
    Ok(changed)
}

fn one(to: &mut Value, operation: &Value) -> Result<(), String> {
    let text = |key: &str| operation[key].as_str().ok_or_else(|| format!("no {key}"));
    let (parent, last) = text("path")?.rsplit_once('/').ok_or("the whole is not patched")?;
    let last = unescape(last);
    let found = to.pointer_mut(parent).ok_or_else(|| format!("{parent} is not there"))?;
    let value = operation.get("value").ok_or("no value");
    match (text("op")?, found) {
        ("add", Value::Array(items)) if last == "-" => items.push(value?.clone()),
        ("add", Value::Array(items)) => {
            let at = index(&last, items.len())?;
            items.insert(at, value?.clone());
        }
        ("add", Value::Object(fields)) => {
            fields.insert(last, value?.clone());
        }
        ("replace", Value::Array(items)) => {
            let at = index(&last, items.len())?;
            *items.get_mut(at).ok_or("nothing is there to replace")? = value?.clone();
        }
        ("replace", found) => {
            let old = found.get_mut(&last).ok_or("nothing is there to replace")?;
            *old = value?.clone();
        }
        ("remove", Value::Object(fields)) => {
            fields.remove(&last).ok_or("nothing is there to remove")?;
        }
        (op, _) => return Err(format!("{op} cannot be done here")),
    }
    Ok(())
}

fn unescape(text: &str) -> String {
    text.replace("~1", "/").replace("~0", "~")
}

fn index(text: &str, length: usize) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|_| format!("{text} is no index"))?;
    if number > length { Err(format!("{number} is past the end")) } else { Ok(number) }
}

#[test]
fn operations_do_what_the_standard_says() {
    use serde_json::json;
    let done = |to: Value, op: Value| apply(&to, &json!([op]));
    // Appendix A of the RFC: 1, 2, 3, 5, 14, 16.
    let add = |path: &str, value: Value| json!({"op": "add", "path": path, "value": value});
    assert_eq!(done(json!({"a": 1}), add("/b", json!(2))), Ok(json!({"a": 1, "b": 2})));
    assert_eq!(done(json!({"l": [1, 3]}), add("/l/1", json!(2))), Ok(json!({"l": [1, 2, 3]})));
    assert_eq!(done(json!({"l": [1]}), add("/l/-", json!([2]))), Ok(json!({"l": [1, [2]]})));
    assert_eq!(done(json!({"a": 1}), add("/~1~0", json!(2))), Ok(json!({"a": 1, "/~": 2})));
    let remove = json!({"op": "remove", "path": "/a"});
    assert_eq!(done(json!({"a": 1}), remove.clone()), Ok(json!({})));
    let replace = json!({"op": "replace", "path": "/a", "value": 2});
    assert_eq!(done(json!({"a": 1}), replace.clone()), Ok(json!({"a": 2})));
    let replace_in = |at: usize| json!({"op": "replace", "path": format!("/l/{at}"), "value": 2});
    assert_eq!(done(json!({"l": [1, 3]}), replace_in(1)), Ok(json!({"l": [1, 2]})));
    assert!(done(json!({"l": [1, 3]}), replace_in(2)).is_err());
    // What is not there is an error, not made.
    for wrong in [remove, replace, add("/b/c", json!(1)), add("/l/1", json!(1))] {
        assert!(done(json!({"l": []}), wrong.clone()).is_err(), "{wrong}");
    }
}
