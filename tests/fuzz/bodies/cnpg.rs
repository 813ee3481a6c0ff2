//! What the API server of Kubernetes says. `k`: a Cluster, `K`: the same, in which a token was put that is said
//! nowhere else. `f`: a fence annotation and, after a line `%mark`, ours beside it. `t`: a token. `e`: an HTTP
//! status, and from the next line on the body of an answer that is an error. `o`: any other object. `v`: a
//! version.

use std::time::Duration;

use harmony_agent::core::ids::{MemberId, SystemId, TimelineId};
use harmony_agent::core::token::Token;
use harmony_agent::database::cnpg::decoders::{self, Ask, Read};
use serde_json::{Value, json};

use super::{assert_says, split};

const FENCED: &str = "cnpg.io/fencedInstances";
const MARK: &str = "harmony-agent.io/fence";

/// A token, of which nothing else has a part.
const SECRET: &str = "eyJkYXRhYmFzZVN5c3RlbUlkZW50aWZpZXIiOiI3NDExIn0=";

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

pub(crate) fn body(data: &[u8]) {
    let Some((kind, rest)) = split(data) else { return };
    let text = &*String::from_utf8_lossy(rest);
    match kind {
        b'k' => cluster(rest),
        b'K' => secret(rest),
        b'f' => fence(text),
        b't' => token(text),
        b'e' => answer(text),
        b'o' => {
            if let Err(error) = decoders::object(rest) {
                says(&error, rest);
            }
        }
        b'v' => version(text),
        _ => {}
    }
}

fn member(name: &str) -> MemberId {
    name.parse().unwrap()
}

/// As RFC 7386 has it.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Value::Object(fields) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// The Cluster as it is with this patch.
fn patched(object: &Value, patch: &Value) -> (Value, Read) {
    let mut after = object.clone();
    merge(&mut after, patch);
    let read = Read::decode(after.to_string().as_bytes()).unwrap();
    (after, read)
}

fn cluster(bytes: &[u8]) {
    let read = match Read::decode(bytes) {
        Err(error) => return says(&error, bytes),
        Ok(read) => read,
    };
    // The same twice in an object is taken for an error by the one and not by the other.
    let Ok(object) = serde_json::from_slice::<Value>(bytes) else { return };
    let own = member("pg-a");
    for finding in read.findings(&own, "a.example") {
        says(&finding, bytes);
    }
    let to = member("pg-b");
    let token = decoders::token(&written()).unwrap();
    let asks = [
        Ask::Open,
        Ask::Promote(None),
        Ask::Promote(Some(&token)),
        Ask::Demote(&to),
        Ask::Repoint(&to),
    ];
    for ask in asks {
        asked(&object, &read, &own, ask);
    }
    fences(&object, &read, &own);
    for (what, patch) in read.kept(&own) {
        let (_, after) = patched(&object, &patch);
        let again = after.kept(&own).into_iter().find(|(other, _)| *other == what);
        assert_eq!(again, None, "{what}: {patch} is not the end of it");
        let [replica, ..] = after.state(&own);
        assert_eq!(replica, read.state(&own)[0], "{what}: {patch} changes its role");
    }
}

/// It may repeat a name, which has no limit of ours.
fn says(error: &str, input: &[u8]) {
    assert!(!error.trim().is_empty(), "refused without a word");
    if input.len() <= 1024 {
        assert_says(error);
    }
}

fn written() -> String {
    let content = json!({
        "latestCheckpointTimelineID": "3", "redoWalFile": "000000030000000000000003",
        "databaseSystemIdentifier": "7411111111111111111",
        "latestCheckpointREDOLocation": "0/3000028",
        "timeOfLatestCheckpoint": "Sat 21 Nov 2026 10:00:00 AM UTC", "operatorVersion": "1.30.1",
    });
    encoded(content.to_string().as_bytes())
}

/// What is refused is not changed; what is asked for once is not asked for again, and is what was meant.
fn asked(object: &Value, read: &Read, own: &MemberId, ask: Ask<'_>) {
    let patch = match read.patch(own, ask) {
        Err(why) => return assert!(!why.trim().is_empty(), "{ask:?}: refused without a word"),
        Ok(patch) => patch,
    };
    assert_eq!(read.refusal(own), None, "{ask:?}: {patch:?}");
    let patch = patch.unwrap_or_else(|| json!({}));
    let (after, it) = patched(object, &patch);
    assert_eq!(it.patch(own, ask), Ok(None), "{ask:?}: {patch} is not the end of it");
    assert_eq!(it.refusal(own), None, "{ask:?}: {patch} makes it one that is refused");
    let ([replica, fenced, _], before) = (it.state(own), read.state(own));
    let token = after["spec"]["replica"]["promotionToken"].as_str().unwrap_or_default();
    match ask {
        Ask::Open => assert!(!replica && !before[0], "{patch}"),
        Ask::Promote(wanted) => {
            let wanted = wanted.map_or("", |token| token.value.reveal());
            assert!(!replica && token == wanted, "{patch}");
        }
        Ask::Demote(to) => {
            // What follows already is not fenced for it.
            let done = read.follows(to) || fenced;
            assert!(replica && it.follows(to) && done && token.is_empty(), "{patch}");
            assert!(read.follows(to) || !read.is_fenced_by_others(own)[1], "lifts their fence");
        }
        Ask::Repoint(to) => {
            assert!(replica && it.follows(to) && token.is_empty(), "{patch}")
        }
    }
    if matches!(ask, Ask::Open | Ask::Promote(_)) {
        assert!(!read.is_fenced_by_others(own)[0], "opened what others have fenced");
        assert!(!fenced, "asked to run, and fenced");
    }
    let roles = !before[2] || before[0] == replica;
    assert!(roles, "{ask:?}: CloudNativePG takes no change of role now: {patch}");
}

/// Whoever is named in the annotation but all at once.
fn named(object: &Value) -> Vec<String> {
    let text = object["metadata"]["annotations"][FENCED].as_str().unwrap_or_default();
    let mut names: Vec<String> = serde_json::from_str(text).unwrap_or_default();
    names.retain(|name| name != "*");
    names.sort();
    names.dedup();
    names
}

/// Setting a fence and lifting it takes away nobody's name.
fn fences(object: &Value, read: &Read, own: &MemberId) {
    let change = |annotations: &Value| json!({ "metadata": { "annotations": annotations } });
    let [set, lift] = read.fences(own);
    assert!(set.is_none() || lift.is_none(), "to be set and to be lifted");
    if let Some(lift) = lift {
        let (after, it) = patched(object, &change(&lift));
        for name in named(object) {
            assert!(named(&after).contains(&name), "{name} is fenced no more: {lift}");
        }
        assert_eq!(it.fences(own)[1], None, "lifted twice: {lift}");
        assert_eq!(it.state(own)[1], read.is_fenced_by_others(own)[0], "{lift}");
    }
    let Some(set) = set else { return };
    let (fenced, it) = patched(object, &change(&set));
    assert!(it.state(own)[1], "set, and not in force: {set}");
    let [again, lift] = it.fences(own);
    assert_eq!(again, None, "set twice: {set}");
    let (after, it) = patched(&fenced, &change(&lift.unwrap()));
    assert_eq!(named(&after), named(object), "{set}");
    assert!(!it.state(own)[1], "lifted, and in force: {after}");
}

fn fence(text: &str) {
    let (list, mark) = text.split_once("\n%mark\n").map_or((text, None), |(a, b)| (a, Some(b)));
    let mut object = json!({
        "metadata": { "name": "pg", "resourceVersion": "1", "annotations": { FENCED: list } },
        "spec": { "instances": 1 },
        "status": { "instanceNames": ["pg-1"] },
    });
    if let Some(mark) = mark {
        object["metadata"]["annotations"][MARK] = json!(mark);
    }
    let read = Read::decode(object.to_string().as_bytes()).unwrap();
    fences(&object, &read, &member("pg-a"));
}

/// Wherever a token may stand, and of whatever kind the rest is: it is not told.
fn secret(bytes: &[u8]) {
    let Ok(object) = serde_json::from_slice::<Value>(bytes) else { return };
    if object.to_string().contains(SECRET) {
        return;
    }
    for (path, field) in [
        ("/spec/replica", "promotionToken"),
        ("/status", "demotionToken"),
        ("/status", "lastPromotionToken"),
        ("/spec", "instances"),
        ("/spec/replica", "enabled"),
        ("/status", "switchReplicaClusterStatus"),
    ] {
        let mut object = object.clone();
        let Some(Value::Object(place)) = object.pointer_mut(path) else { continue };
        place.insert(field.to_owned(), json!(SECRET));
        let said = match Read::decode(object.to_string().as_bytes()) {
            Err(error) => error,
            Ok(read) => format!(
                "{read:?} {:?} {:?}",
                read.refusal(&member("pg-a")),
                read.findings(&member("pg-a"), "a.example")
            ),
        };
        assert!(!said.contains(SECRET), "{path}/{field} is told: {said}");
    }
}

/// What is no token is not repeated; what is one is sent for its own data only.
fn token(text: &str) {
    let token = match decoders::token(text) {
        Err(error) => {
            assert_says(&error);
            assert!(text.len() < 16 || !error.contains(text), "{error}");
            return;
        }
        Ok(token) => token,
    };
    assert_eq!(token.value.reveal(), text);
    assert!(!format!("{token} {token:?}").contains(text));
    let Token { system, timeline, .. } = token;
    assert_eq!(decoders::fits(&token, Some(system), timeline), Ok(()));
    let other = Some(SystemId(system.0 ^ 1));
    let later = timeline.0.checked_add(1).map(TimelineId);
    let noted = Token { timeline: TimelineId(timeline.0 ^ 1), ..token.clone() };
    let refused = [
        Some(decoders::fits(&token, None, timeline)),
        Some(decoders::fits(&token, other, timeline)),
        later.map(|later| decoders::fits(&token, Some(system), later)),
        Some(decoders::fits(&noted, Some(system), TimelineId(0))),
    ];
    for refused in refused.into_iter().flatten() {
        let why = refused.unwrap_err();
        assert_says(&why);
        assert!(!why.contains(text), "{why}");
    }
}

fn answer(text: &str) {
    let (code, body) = text.split_once('\n').unwrap_or((text, ""));
    let Ok(code) = code.parse() else { return };
    for (tries, after) in
        [(0, None), (7, Some(Duration::from_secs(1))), (u32::MAX, Some(Duration::MAX))]
    {
        let (said, pause, landed) =
            decoders::trouble(code, after, body.as_bytes(), Some(SECRET), tries);
        assert_says(&said);
        assert!(said.len() <= 4096, "{} bytes", said.len());
        assert!(!said.contains(SECRET), "{said}");
        // 0 would be a circle without a pause.
        assert!(pause.is_none_or(|pause| !pause.is_zero() && pause <= LONGEST_PAUSE), "{pause:?}");
        // Nothing was done where the server says why not.
        assert!(!(landed && (400..500).contains(&code)), "{code}: {said}");
    }
}

fn version(text: &str) {
    match decoders::version(text) {
        Err(error) => assert_says(&error),
        Ok(shown) => assert_eq!(decoders::version(&shown), Ok(shown.clone())),
    }
}

fn encoded(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .enumerate()
            .fold(0, |word, (at, byte)| word | u32::from(*byte) << (16 - 8 * at));
        for place in 0..4 {
            let index = (word >> (18 - 6 * place)) & 63;
            text.push(if place <= chunk.len() {
                char::from(ALPHABET[index as usize])
            } else {
                '='
            });
        }
    }
    text
}
