//! Comparison of nginx with the router in what a request meets: listener, server, location, and the words of each.
//!
//! Every case runs in nginx and, imported, in the router, over the same replicas and with the same requests. Status,
//! replicas, what they saw and what the client got must be the same, but for the listed differences. Needs nginx:
//! `.ci/nginx-scopes`. `CASE=name` runs the cases whose name contains it. `NGINX_TWICE=1` compares nginx
//! with itself, which checks the comparison.

mod case;
mod client;
mod conf_words;
mod differences;
mod generator;
mod mutations;
mod outcome;
mod random;
mod replicas;
mod requests;
mod sides;
mod suggestions;
mod table;
