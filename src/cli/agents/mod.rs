//! Coding agents and the settings by which they use a router.

mod model_list;
mod settings;
mod table;
mod target;

pub(super) use model_list::{choose_model, fetch_models};
pub(super) use table::{AgentSpec, agent_names, find_agent, format_agents};
pub(super) use target::{ClientKey, RouterTarget, RouterUrl};
