//! The members of a request body that hold its prompt.

use serde_json::value::RawValue;

use crate::dialect::{self, MAX_PROMPT_MEMBERS, PromptPart};

/// The members that hold the prompt, as they are written; `null` counts as absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct PromptMembers<'a> {
    /// In the order of [`dialect::prompt_members`].
    values: [Option<&'a RawValue>; MAX_PROMPT_MEMBERS],
}

impl<'a> PromptMembers<'a> {
    /// Sets the value of the member `name`, if that is one that holds a prompt.
    pub(super) fn set(&mut self, name: &str, value: Option<&'a RawValue>) {
        let index = dialect::prompt_members().iter().position(|member| member.name == name);
        if let Some(place) = index.and_then(|index| self.values.get_mut(index)) {
            *place = value;
        }
    }

    /// Returns the members that are present, in the order in which a prompt is read.
    pub fn iter(&self) -> impl Iterator<Item = (PromptPart, &'a RawValue)> {
        let members = dialect::prompt_members().iter().zip(self.values);
        members.filter_map(|(member, value)| Some((member.part, value?)))
    }

    /// Returns the first member that holds this part of the prompt.
    pub fn find(&self, part: PromptPart) -> Option<&'a RawValue> {
        self.iter().find(|(found, _)| *found == part).map(|(_, value)| value)
    }
}
