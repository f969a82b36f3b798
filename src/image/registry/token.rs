//! Tokens of a registry's authority (the distribution project's "Token
//! Authentication Specification", and its OAuth2 form for refresh tokens).

use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE};
use ureq::http::{HeaderMap, HeaderValue, Method, Uri};

use super::credentials::Credential;
use super::error::words;
use super::http::{Http, page};

/// What is asked of the authority.
pub struct Wanted<'a> {
    pub realm: &'a str,
    pub service: Option<&'a str>,
    pub scope: &'a str,
}

/// Fetches a token.
///
/// # Errors
/// Why there is none, with the status if the authority answered.
pub fn fetch(
    http: &Http,
    wanted: &Wanted<'_>,
    credential: Option<&Credential>,
) -> Result<String, (Option<u16>, String)> {
    let lost = |why: String| (None, format!("{}: {why}", wanted.realm));
    let mut fields = vec![("scope", wanted.scope)];
    fields.extend(wanted.service.map(|s| ("service", s)));
    let mut headers = HeaderMap::new();
    let (method, url, body) = match credential {
        Some(Credential::Identity(token)) => {
            fields.extend([
                ("grant_type", "refresh_token"),
                ("client_id", "denovo"),
                ("refresh_token", token),
            ]);
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("application/x-www-form-urlencoded"),
            );
            (Method::POST, wanted.realm.to_owned(), encode(&fields))
        }
        _ => {
            if let Some(basic) = credential.and_then(Credential::basic) {
                let value = HeaderValue::from_str(&basic).map_err(|e| lost(e.to_string()))?;
                headers.insert(AUTHORIZATION, value);
            }
            let joint = if wanted.realm.contains('?') { '&' } else { '?' };
            (Method::GET, format!("{}{joint}{}", wanted.realm, encode(&fields)), String::new())
        }
    };
    let url: Uri = url.parse().map_err(|_| lost("is no address".to_owned()))?;
    let response = if method == Method::GET {
        http.send(&method, &url, &headers, ())
    } else {
        http.send(&method, &url, &headers, body)
    };
    let response = response.map_err(|silence| lost(silence.why))?;
    let status = response.status();
    let text = page(response).map_err(&lost)?;
    if !status.is_success() {
        let words = words(&text);
        return Err((
            Some(status.as_u16()),
            format!("{} answered {}{words}", wanted.realm, status.as_u16()),
        ));
    }
    read(&text).ok_or_else(|| lost("gave no token".to_owned()))
}

fn read(text: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Said {
        token: Option<String>,
        access_token: Option<String>,
    }
    let said: Said = serde_json::from_slice(text).ok()?;
    said.token.or(said.access_token).filter(|t| !t.is_empty())
}

/// application/x-www-form-urlencoded, every byte but letters, digits and
/// `-._~` (RFC 3986, section 2.3) as percent.
fn encode(fields: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in fields {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                text.push(char::from(byte));
            } else {
                text.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{encode, read};

    #[test]
    fn fields_cannot_add_fields() {
        let text = encode(&[("scope", "repository:a/b:pull&x=1"), ("service", "s ä")]);
        assert_eq!(text, "scope=repository%3Aa%2Fb%3Apull%26x%3D1&service=s%20%C3%A4");
    }

    #[test]
    fn either_name_of_a_token_is_known() {
        let table = [
            (r#"{"token":"a","expires_in":60}"#, Some("a")),
            (r#"{"access_token":"b"}"#, Some("b")),
            (r#"{"token":""}"#, None),
            ("[]", None),
        ];
        for (text, expected) in table {
            assert_eq!(read(text.as_bytes()).as_deref(), expected, "{text}");
        }
    }
}
