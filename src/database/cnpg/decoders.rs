//! Doors to what reads Clusters, tokens, fences and refusals, and to what is decided on them, for the
//! fuzzing in `tests/fuzz`.

use std::time::Duration;

use serde_json::Value;

use super::cluster::{Cluster, Pod};
use super::mark::Fence;
use super::part::{Data, Want};
use super::trouble::{Call, Trouble};
use super::us::Us;
use super::version::{Probe, Version};
use super::{api, audit, keeper, obstacle, role, token};
use crate::core::ids::{MemberId, SystemId, TimelineId};
use crate::core::token::Token;
use crate::database::server::outcome::Failure;

/// A Cluster as the API server gave it.
#[derive(Debug)]
pub struct Read(Cluster);

/// What is asked of a Cluster.
#[derive(Clone, Copy, Debug)]
pub enum Ask<'a> {
    /// To open as the primary it was.
    Open,
    /// To be promoted.
    Promote(Option<&'a Token>),
    /// To become a replica of this site.
    Demote(&'a MemberId),
    /// To follow this site.
    Repoint(&'a MemberId),
}

impl Read {
    /// From the bytes of an answer.
    ///
    /// # Errors
    /// It is no Cluster.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        api::decode(bytes).map(Self).map_err(|trouble: Trouble| trouble.to_string())
    }

    /// Why its role must not be changed, if so.
    pub fn refusal(&self, member: &MemberId) -> Option<String> {
        audit::refusal(&self.0, &site(member)).or_else(|| obstacle(&self.0))
    }

    /// Everything there is to say about it.
    pub fn findings(&self, member: &MemberId, host: &str) -> Vec<String> {
        let found = audit::audit(&self.0, &site(member), &Probe::default()).into_iter();
        let found = found.chain(audit::advertised(&self.0, &site(member), host));
        found.map(|finding| format!("{finding:?}")).collect()
    }

    /// It is a replica, it is fenced, it is becoming a replica.
    pub fn state(&self, member: &MemberId) -> [bool; 3] {
        [self.0.is_replica(), super::mark::covers(&self.0, &site(member)), self.0.is_switching()]
    }

    /// It follows this site, as far as it is asked to.
    pub fn follows(&self, to: &MemberId) -> bool {
        role::follows(&self.0, to.as_str())
    }

    /// The patch for what is asked, if there has to be one.
    ///
    /// # Errors
    /// It is refused.
    pub fn patch(&self, member: &MemberId, ask: Ask<'_>) -> Result<Option<Value>, String> {
        let us = &site(member);
        let patch = match ask {
            Ask::Open => role::opening(&self.0, us),
            Ask::Promote(token) => role::promotion(&self.0, us, token),
            Ask::Demote(to) => role::demotion(&self.0, us, to.as_str()),
            Ask::Repoint(to) => role::repointing(&self.0, us, to.as_str()),
        };
        patch.map_err(said)
    }

    /// What the keeper makes of it, by everything that may be wanted and every kind of data.
    pub fn kept(&self, member: &MemberId) -> Vec<(String, Value)> {
        let wants = [Want::Held, Want::Fenced, Want::Shut, Want::Free, Want::Open];
        let kinds = [Data::None, Data::Running, Data::RunningStandby, Data::Standby, Data::Primary];
        let all = wants.into_iter().flat_map(|want| kinds.map(|data| (want, data)));
        all.filter_map(|(want, data)| {
            let due = keeper::due(want, data, &self.0, &site(member))?;
            Some((format!("{want:?} {data:?}"), due))
        })
        .collect()
    }

    /// The annotations that set a fence, and those that lift what is ours of it.
    pub fn fences(&self, member: &MemberId) -> [Option<Value>; 2] {
        let us = &site(member);
        let fence = Fence::of(&self.0, us);
        [fence.set(us), fence.lift()]
    }

    /// Somebody else keeps it fenced; somebody else has named an instance.
    pub fn is_fenced_by_others(&self, member: &MemberId) -> [bool; 2] {
        let fence = Fence::of(&self.0, &site(member));
        [fence.is_foreign, fence.is_shared()]
    }
}

/// Whether it is a pod.
///
/// # Errors
/// It is none.
pub fn object(bytes: &[u8]) -> Result<(), String> {
    let read: Result<Pod, Trouble> = api::decode(bytes);
    read.map(|_| ()).map_err(|trouble| trouble.to_string())
}

/// A token.
///
/// # Errors
/// What is wrong with it.
pub fn token(text: &str) -> Result<Token, String> {
    token::read(text)
}

/// Whether a token is sent for data with this identifier and timeline.
///
/// # Errors
/// Why not.
pub fn fits(token: &Token, system: Option<SystemId>, timeline: TimelineId) -> Result<(), String> {
    role::fits(token, system, timeline).map_err(said)
}

/// What an answer that is an error means: words, how long until the next try (there may be none), and whether
/// the change may have been made all the same.
pub fn trouble(
    code: u16,
    after: Option<Duration>,
    body: &[u8],
    secret: Option<&str>,
    tries: u32,
) -> (String, Option<Duration>, bool) {
    let call = Call { verb: "patch", resource: "clusters" };
    let trouble = Trouble::of(call, "clusters at /x", code, after, body, secret);
    (trouble.to_string(), trouble.pause(tries), trouble.may_have_landed())
}

/// A version of CloudNativePG, as it is shown.
///
/// # Errors
/// It is none.
pub fn version(text: &str) -> Result<String, String> {
    text.parse().map(|version: Version| version.to_string())
}

/// A member that is a site.
fn site(member: &MemberId) -> Us {
    Us { member: member.clone(), instance: None, site: None }
}

fn said(failure: Failure) -> String {
    failure.text().to_owned()
}
