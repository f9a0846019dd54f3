//! The program: configuration, imports, reloads, logs, and rules of the source tree.

mod cli;
mod config_errors;
mod configuration_doc;
mod import;
mod layers;
mod licences;
mod nginx_import;
mod nginx_log;
mod reload;
mod troubleshooting_doc;
