//! Selection of the pool by host, path and model.

use super::*;
use crate::routes::{BlockedPath, ListenAddr, PoolRoute};
use crate::units::ModelNames;

/// Returns the pools of a request's route.
fn find_route(fleet: &Fleet, host: &str, path: &str) -> Arc<RoutedPools> {
    let arrival = ArrivalAddr { listen: ListenAddr::Unix("/x".into()), local: None };
    match fleet.find_route(&arrival, host, path) {
        FoundRoute::Route(routed) => routed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn pool_without_models_routes_by_listed_models() {
    let mut learning = pool_spec("learned", &[1, 2, 3]);
    learning.models = ModelNames::default();
    let observer: Arc<dyn LeaseObserver> = Arc::new(OutcomeRecorder::default());
    let fleet = Fleet::new(vec![learning], &observer, 1).unwrap();
    let routed = find_route(&fleet, "h", "/v1/chat/completions");
    assert_eq!(routed.find_pool(Some("x")).unwrap_err(), PoolLookupError::ModelsPending);
    let pool = fleet.pool("learned").unwrap();
    assert_eq!(pool.acquire(&acquire_request(), at_seconds(0)).unwrap_err(), NoReplica::NotReady);

    let replicas: Vec<_> = pool.replicas().cloned().collect();
    replicas[0].set_models(ReplicaModels::Listed(vec!["x".into()]));
    replicas[1].set_models(ReplicaModels::Listed(vec!["x".into(), "y".into()]));
    assert_eq!(routed.find_pool(Some("z")).unwrap_err(), PoolLookupError::ModelsPending);
    replicas[2].set_model_list_fault(ModelListFault::Unauthorized);
    let no_list = PoolLookupError::NoModelList(ModelListFault::Unauthorized);
    assert_eq!(routed.find_pool(Some("z")).unwrap_err(), no_list, "it may serve the model");
    replicas[2].set_model_list_fault(ModelListFault::NoSuchPath(404));
    assert_eq!(routed.find_pool(Some("z")).unwrap_err(), PoolLookupError::UnknownModel);
    let wanted = AcquireRequest { model: Some("y"), ..acquire_request() };
    for _ in 0..3 {
        let lease = routed.find_pool(wanted.model).unwrap().acquire(&wanted, at_seconds(0)).unwrap();
        assert_eq!(lease.replica().id(), replicas[1].id());
    }
    assert_eq!(pool.models(), ["x".into(), "y".into()]);
}

#[test]
fn host_comes_before_path_and_the_longest_path_wins() {
    let routed = |name: &str, host: Option<&str>, path: Option<&str>| PoolSpec {
        route: PoolRoute { host: host.map(str::to_owned), path: path.map(str::to_owned), ..PoolRoute::default() },
        ..pool_spec(name, &[1])
    };
    let (fleet, _) = build_fleet(vec![
        routed("any", None, None),
        routed("team", None, Some("/team")),
        routed("team-a", None, Some("/team/a")),
        routed("host", Some("gpu.local"), None),
    ]);
    let pool = |host: &str, path: &str| find_route(&fleet, host, path).pools()[0].name().to_string();
    assert_eq!(pool("x", "/v1/chat/completions"), "any");
    assert_eq!(pool("x", "/teamwork/v1"), "any");
    assert_eq!(pool("x", "/team/v1/completions"), "team");
    assert_eq!(pool("x", "/team/a/v1/completions"), "team-a");
    assert_eq!(pool("gpu.local", "/team/a"), "host");
}

#[test]
fn pool_with_blocked_paths_hides_no_other_pool_of_its_host() {
    let mut refusing = pool_spec("a", &[1]);
    refusing.route.blocked_paths = vec![BlockedPath { path: "/closed".to_owned(), exact: false, status: 403 }];
    let (fleet, _) = build_fleet(vec![refusing, pool_spec("b", &[2])]);
    let routed = find_route(&fleet, "", "/v1");
    assert_eq!(["a", "b"].map(|model| routed.find_pool(Some(model)).unwrap().name().to_string()), ["a", "b"]);
}

#[test]
fn request_without_model_needs_a_single_pool() {
    let (fleet, _) = build_fleet(vec![pool_spec("a", &[1])]);
    assert_eq!(&**find_route(&fleet, "", "/v1").find_pool(None).unwrap().name(), "a");
    let (fleet, _) = build_fleet(vec![pool_spec("a", &[1]), pool_spec("b", &[2])]);
    assert_eq!(find_route(&fleet, "", "/v1").find_pool(None).unwrap_err(), PoolLookupError::ModelMissing);
}

#[test]
fn pool_for_any_model_comes_after_pools_that_name_it() {
    let mut any = pool_spec("any", &[1]);
    any.models = ModelNames::default();
    any.path_policy = PathPolicy::Any;
    let (fleet, _) = build_fleet(vec![any, pool_spec("m", &[2])]);
    let routed = find_route(&fleet, "", "/v1");
    let name = |model| routed.find_pool(model).unwrap().name().to_string();
    assert_eq!((name(Some("m")), name(Some("x")), name(None)), ("m".into(), "any".into(), "any".into()));
}
