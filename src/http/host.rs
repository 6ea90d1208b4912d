//! Which host names a request may use.
//!
//! A web page can let a name of its own point at a private address, and then read what answers
//! there as if it were its own (DNS rebinding). Such a name is a registered domain. So IP addresses
//! pass, by which probes come, and names that cannot be registered: those without a dot, as between
//! containers, and those below `localhost`, `local` and `internal`. Others must be configured
//! (`OUTBOX_HTTP_HOSTS`). A request without a name does not come from a browser. One that has
//! several, in more than one header or in the address that it asks for, passes if all of them do.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header, uri::Authority};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// The last labels of names that cannot be registered.
const PRIVATE: [&str; 3] = ["localhost", "local", "internal"];

pub(super) async fn check(
    State(names): State<Arc<[String]>>,
    request: Request,
    next: Next,
) -> Response {
    let mut hosts = request.headers().get_all(header::HOST).into_iter();
    let by_header = hosts.all(|host| host.to_str().is_ok_and(|host| may_be(host, &names)));
    let asked = request.uri().authority();
    let passes = by_header && asked.is_none_or(|host| may_be(host.as_str(), &names));
    if passes {
        return next.run(request).await;
    }
    let why = "this host name is not served: add it to OUTBOX_HTTP_HOSTS\n";
    (StatusCode::MISDIRECTED_REQUEST, why).into_response()
}

/// `host` as in the request, with a port or without.
fn may_be(host: &str, names: &[String]) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host().trim_end_matches('.').to_ascii_lowercase();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    if address.parse::<IpAddr>().is_ok() {
        return true;
    }
    let is_private = match name.rsplit_once('.') {
        None => !name.is_empty(),
        Some((_, last)) => PRIVATE.contains(&last),
    };
    is_private || names.iter().any(|known| known.eq_ignore_ascii_case(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_that_cannot_be_registered_pass_and_others_when_configured() {
        let names = ["Outboxd.Example.com".to_owned()];
        let passing = [
            "127.0.0.1",
            "127.0.0.1:9464",
            "[::1]:9464",
            "[fe80::1]",
            "localhost:9464",
            "LOCALHOST",
            "outboxd:9464",
            "db.localhost",
            "outboxd.shop.svc.cluster.local:9464",
            "ip-10-0-0-1.eu-west-1.compute.internal",
            "outboxd.example.com",
            "outboxd.example.com.:80",
        ];
        for host in passing {
            assert!(may_be(host, &names), "{host}");
        }
        let refused = [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example:9464",
            "xoutboxd.example.com",
            "local.com",
            "",
            "a b",
            "[::1",
            "user@evil.example",
        ];
        for host in refused {
            assert!(!may_be(host, &names), "{host}");
        }
    }
}
