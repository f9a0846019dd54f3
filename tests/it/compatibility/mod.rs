//! Clients, engines and proxies as they are met in the field: what they send, and the right outcome.

mod agent_endpoints;
mod agent_sessions;
mod azure;
mod client_metadata;
mod endpoint_list;
mod engines;
mod header_case;
mod json_keep_alive;
mod launch;
mod model_list_faults;
mod model_patterns;
mod moving_models;
mod plain_answers;
mod request_codings;
mod stale_connections;
mod statuses;
mod stream_pauses;
mod tcp_keepalive;
mod unix_replicas;
mod usage_members;
mod websocket;
mod wrong_labels;
