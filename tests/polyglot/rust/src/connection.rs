//! Opens the channel: mutual TLS, and a deadline for each call.

use std::time::Duration;

use tokio::time::sleep;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;

// docs: connect
/// Opens a channel to the address NAME:PORT, which connects when it is needed.
pub fn connect(
    address: &str,
    authority: &str,
    certificate: &str,
    key: &str,
) -> Result<Channel, Box<dyn std::error::Error>> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(std::fs::read(authority)?))
        .identity(Identity::from_pem(std::fs::read(certificate)?, std::fs::read(key)?));
    let endpoint = Endpoint::from_shared(format!("https://{address}"))?
        .tls_config(tls)?
        .connect_timeout(Duration::from_secs(5))
        // Finds a dead connection under a stream that has become silent.
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(5));
    Ok(endpoint.connect_lazy())
}

/// Makes a request that fails after `limit`; the service is told of it.
pub fn within<T>(limit: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

/// Returns the answer of a call made by `within`.
pub fn answer<T>(outcome: Result<Response<T>, Status>) -> Result<T, Status> {
    match outcome {
        Ok(response) => Ok(response.into_inner()),
        // What tonic says when the time is over.
        Err(status) if status.code() == Code::Cancelled => {
            Err(Status::deadline_exceeded(status.message()))
        }
        Err(status) => Err(status),
    }
}
// docs: end

// docs: errors
/// Returns why a call failed: a name of ErrorReason without its prefix, such as
/// "CREDENTIALS_INVALID", or "" if the answer is not the service's own.
pub fn reason_of(status: &Status) -> String {
    match status.get_details_error_info() {
        Some(info) if info.domain == "authsvc" => info.reason,
        _ => String::new(),
    }
}

/// Calls again while the service refuses before anything is done, as replicas that stop do. So it
/// may be used for any call.
pub async fn repeated<T, F>(mut call: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    let mut pause = Duration::from_millis(100);
    loop {
        match call().await {
            Err(status) if is_refused(&status) && pause <= Duration::from_millis(400) => {
                sleep(pause.mul_f64((1.0 + fastrand::f64()) / 2.0)).await;
                pause *= 2;
            }
            outcome => return outcome,
        }
    }
}

fn is_refused(status: &Status) -> bool {
    status.get_details_error_info().is_some_and(|info| {
        info.domain == "authsvc" && info.metadata.get("effect").is_some_and(|said| said == "none")
    })
}
// docs: end
