//! As much of CEL as an admission policy takes to write objects down: literals, lists, maps, and objects by
//! the name of their type, which has to be the field they stand in.

use serde_json::{Map, Value, json};

/// The operations of a list of `JSONPatch{…}`, as RFC 6902 writes them.
pub(super) fn operations(expression: &str) -> Result<Value, String> {
    let mut reader = Reader { rest: expression };
    let list = reader.list(|reader| {
        reader.expect("JSONPatch{")?;
        let (mut operation, mut kind) = (Map::new(), String::new());
        reader.fields("}", |reader, key| {
            if key == "path" {
                let path = reader.value("")?;
                kind = kind_at(path.as_str().unwrap_or_default());
                operation.insert(key, path);
            } else {
                let value = reader.value(&kind)?;
                operation.insert(key, value);
            }
            Ok(())
        })?;
        Ok(Value::Object(operation))
    })?;
    reader.skip();
    if reader.rest.is_empty() { Ok(list) } else { Err(reader.at("something follows the list")) }
}

/// The object of an `Object{…}`, as it is applied.
pub(super) fn object(expression: &str) -> Result<Value, String> {
    let mut reader = Reader { rest: expression };
    let object = reader.value("Object")?;
    reader.skip();
    if reader.rest.is_empty() { Ok(object) } else { Err(reader.at("something follows the object")) }
}

/// The type of what stands at a path: `/spec/volumes/-` is `Object.spec.volumes`.
fn kind_at(path: &str) -> String {
    let names = path.split('/').skip(1).filter(|name| *name != "-");
    names.fold("Object".to_owned(), |kind, name| format!("{kind}.{name}"))
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn at(&self, why: &str) -> String {
        format!("{why}, at {:?}", self.rest.chars().take(60).collect::<String>())
    }

    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn took(&mut self, text: &str) -> bool {
        self.skip();
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, text: &str) -> Result<(), String> {
        if self.took(text) { Ok(()) } else { Err(self.at(&format!("expected {text}"))) }
    }

    fn take(&mut self, wanted: impl Fn(char) -> bool) -> String {
        self.skip();
        let end = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken.to_owned()
    }

    fn string(&mut self) -> Result<String, String> {
        self.expect("\"")?;
        let (text, rest) = self.rest.split_once('"').ok_or_else(|| self.at("no end of a text"))?;
        if text.contains('\\') {
            return Err(self.at("escapes are not known"));
        }
        self.rest = rest;
        Ok(text.to_owned())
    }

    fn list(&mut self, item: impl Fn(&mut Self) -> Result<Value, String>) -> Result<Value, String> {
        self.expect("[")?;
        let mut items = Vec::new();
        while !self.took("]") {
            if !items.is_empty() {
                self.expect(",")?;
            }
            items.push(item(self)?);
        }
        Ok(Value::Array(items))
    }

    fn fields(
        &mut self,
        end: &str,
        mut field: impl FnMut(&mut Self, String) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut first = true;
        while !self.took(end) {
            if !std::mem::take(&mut first) {
                self.expect(",")?;
            }
            self.skip();
            let key = if self.rest.starts_with('"') {
                self.string()?
            } else {
                self.take(|c| c.is_ascii_alphanumeric())
            };
            self.expect(":")?;
            field(self, key)?;
        }
        Ok(())
    }

    fn value(&mut self, kind: &str) -> Result<Value, String> {
        self.skip();
        match self.rest.chars().next() {
            Some('"') => self.string().map(Value::String),
            Some('[') => self.list(|reader| reader.value(kind)),
            // A map: its keys are no fields.
            Some('{') => self.object("{", kind),
            Some('0'..='9') => {
                let digits = self.take(|c| c.is_ascii_digit());
                digits.parse::<u64>().map(|number| json!(number)).map_err(|why| why.to_string())
            }
            Some(_) if self.took("true") => Ok(Value::Bool(true)),
            Some(_) if self.took("false") => Ok(Value::Bool(false)),
            Some(_) => self.object(&format!("{kind}{{"), kind),
            None => Err("a value is missing".to_owned()),
        }
    }

    fn object(&mut self, begin: &str, kind: &str) -> Result<Value, String> {
        self.expect(begin)?;
        let mut object = Map::new();
        self.fields("}", |reader, key| {
            let value = reader.value(&format!("{kind}.{key}"))?;
            object.insert(key, value);
            Ok(())
        })?;
        Ok(Value::Object(object))
    }
}

#[test]
fn objects_are_read_and_wrong_types_refused() {
    let read = operations(
        r#"[JSONPatch{op: "add", path: "/spec/a/-", value: Object.spec.a{b: [Object.spec.a.b{c: 1}], d: {"e": true}}}]"#,
    );
    let wanted =
        json!([{"op": "add", "path": "/spec/a/-", "value": {"b": [{"c": 1}], "d": {"e": true}}}]);
    assert_eq!(read, Ok(wanted));
    assert_eq!(object("Object{a: Object.a{b: 1}}"), Ok(json!({"a": {"b": 1}})));
    for wrong in ["Object{a: Object.b{}}", "Object{} + 1", "Other{}"] {
        assert!(object(wrong).is_err(), "{wrong}");
    }
    for wrong in [
        r#"[JSONPatch{op: "add", path: "/spec/a", value: Object.spec.b{}}]"#,
        r#"[JSONPatch{op: "add", path: "/spec/a", value: Object.spec.a{b: Object.spec.a.c{}}}]"#,
        r#"[JSONPatch{op: "add", path: "/spec/a", value: 1}"#,
        r#"[JSONPatch{op: "add", path: "/spec/a", value: 1}] + []"#,
    ] {
        assert!(operations(wrong).is_err(), "{wrong}");
    }
}
