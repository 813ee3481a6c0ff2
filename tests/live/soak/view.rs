//! What the agents say, and whether it is what it has to be.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// `/status` of an agent, if it answers soon.
pub(super) fn ask(http: SocketAddr) -> Option<Value> {
    let limit = Duration::from_millis(800);
    let mut stream = TcpStream::connect_timeout(&http, limit).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    write!(stream, "GET /status HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
}

/// One member leads and accepts writes, and all others stream from it, on its timeline and in its
/// epoch, as every agent says; otherwise what is missing.
pub(super) fn converged(seen: &[Value], members: usize) -> Result<(), String> {
    let lead: Vec<&Value> = seen.iter().filter(|said| said["is_primary"] == true).collect();
    let [primary] = lead[..] else {
        return Err(format!("{} of {members} lead: {}", lead.len(), summary(seen)));
    };
    let own = |members: &Value, name: &Value| {
        let all = members.as_array().cloned().unwrap_or_default();
        all.into_iter().find(|member| member["member"] == *name).unwrap_or_default()
    };
    let position = own(&primary["members"], &primary["member"]);
    let sound = |said: &Value| {
        let is_primary = said["member"] == primary["member"];
        let database = &said["database"];
        let role = match is_primary {
            true => said["state"] == "primary_healthy" && said["writable"] == true,
            false => {
                let upstream = position["address"]["host"].as_str();
                said["state"] == "replica_watching"
                    && database["streaming"] == true
                    && upstream.is_none_or(|host| database["upstream"][0] == host)
            }
        };
        role && said["epoch"] == primary["epoch"]
            && said["lease"]["holder"] == primary["member"]
            && database["timeline"] == primary["database"]["timeline"]
            && said["not_obeyed"].as_array().is_none_or(Vec::is_empty)
    };
    match seen.iter().all(sound) {
        true => Ok(()),
        false => Err(summary(seen)),
    }
}

/// Some words about each.
pub(super) fn summary(seen: &[Value]) -> String {
    let some = |said: &Value| {
        if said.is_null() {
            return "no answer".to_owned();
        }
        let database = &said["database"];
        format!(
            "{} {} epoch {} holder {} writable {} timeline {} {} streaming {} watchdog {} alarms {} {}",
            said["member"],
            said["state"],
            said["epoch"],
            said["lease"]["holder"],
            said["writable"],
            database["timeline"],
            database["process"],
            database["streaming"],
            said["watchdog"],
            said["alarms"],
            said["takeover"],
        )
    };
    seen.iter().map(some).collect::<Vec<_>>().join("\n  ")
}

/// What agents' logs say about one acquisition each: epoch, member, boot time.
fn acquisitions(logs: &[(String, String)]) -> Vec<(f64, u64, &str)> {
    let mut found = Vec::new();
    for (member, log) in logs {
        for line in log.lines().filter(|line| line.contains("\"transition\"")) {
            let Ok(said) = serde_json::from_str::<Value>(line) else { continue };
            if said["to"] != "primary_healthy" {
                continue;
            }
            if let (Some(at), Some(epoch)) = (said["boottime"].as_f64(), said["epoch"].as_u64()) {
                found.push((at, epoch, member.as_str()));
            }
        }
    }
    found.sort_by(|one, next| one.0.total_cmp(&next.0));
    found
}

/// Epochs only grow, and belong to one member each: otherwise what was seen, from the agents' logs.
/// They begin anew with a new store, at that boot time.
pub(super) fn epochs(logs: &[(String, String)], restored: Option<f64>) -> Vec<String> {
    let (mut wrong, mut owners) = (Vec::new(), BTreeMap::new());
    let (mut last, mut restored) = (0, restored);
    for (at, epoch, member) in acquisitions(logs) {
        if restored.is_some_and(|restored| at > restored) {
            (last, restored) = (0, None);
            owners.clear();
        }
        let owner = *owners.entry(epoch).or_insert(member);
        if owner != member {
            wrong.push(format!("epoch {epoch} of {owner} is opened by {member} at {at:.3}"));
        }
        if epoch < last {
            wrong.push(format!("epoch {epoch} of {member} is opened after {last}, at {at:.3}"));
        }
        last = last.max(epoch);
    }
    wrong
}

/// How often agents promoted their database.
pub(super) fn promotions(logs: &[(String, String)]) -> usize {
    logs.iter().map(|(_, log)| log.matches("\"action\":\"promote\"").count()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(member: &str, lines: &[(f64, u64)]) -> (String, String) {
        let line = |(at, epoch): &(f64, u64)| {
            format!(
                "{{\"message\":\"transition\",\"to\":\"primary_healthy\",\
                 \"boottime\":{at},\"epoch\":{epoch}}}\n"
            )
        };
        (member.to_owned(), lines.iter().map(line).collect())
    }

    #[test]
    fn epochs_that_grow_are_right() {
        let logs = [log("a", &[(1.0, 1), (3.0, 3), (4.0, 3)]), log("b", &[(2.0, 2)])];
        assert_eq!(epochs(&logs, None), Vec::<String>::new());
    }

    #[test]
    fn an_epoch_used_twice_or_after_a_later_one_is_found() {
        assert_eq!(epochs(&[log("a", &[(1.0, 2)]), log("b", &[(2.0, 2)])], None).len(), 1);
        assert_eq!(epochs(&[log("a", &[(1.0, 2)]), log("b", &[(2.0, 1)])], None).len(), 1);
        // With a new store it begins anew.
        assert_eq!(epochs(&[log("a", &[(1.0, 2)]), log("b", &[(2.0, 1)])], Some(1.5)).len(), 0);
    }
}
