//! A browser for pages without script: cookies, redirects, forms.

use std::collections::BTreeMap;

use reqwest::{Method, StatusCode, header};
use url::{Url, form_urlencoded};

use super::server::client;

/// One browser profile.
pub(crate) struct Browser {
    http: reqwest::Client,
    /// By host; ports share cookies (RFC 6265 section 8.5).
    cookies: BTreeMap<String, BTreeMap<String, String>>,
}

/// A page as it was shown.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// Its status.
    pub(crate) status: StatusCode,
    /// Where the browser is.
    pub(crate) url: Url,
    /// The HTML.
    pub(crate) html: String,
}

/// A form on a page.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    method: Method,
    action: Url,
    fields: Vec<(String, String)>,
    /// The buttons: name, value and text. The name is empty where a button sends nothing of its own.
    buttons: Vec<(String, String, String)>,
}

impl Browser {
    /// A fresh profile.
    pub(crate) fn new() -> Self {
        Self { http: client(), cookies: BTreeMap::new() }
    }

    /// Opens an address, and follows redirects.
    pub(crate) async fn open(&mut self, url: &str) -> Page {
        self.go(Method::GET, Url::parse(url).unwrap(), None, None).await
    }

    /// Sends a form that some page of somebody else's holds, and follows redirects.
    pub(crate) async fn post(&mut self, url: &str, fields: &[(&str, &str)]) -> Page {
        self.go(Method::POST, Url::parse(url).unwrap(), Some(encoded(fields)), None).await
    }

    /// The same from the page at an address, of which the browser tells the origin.
    pub(crate) async fn post_from(&mut self, page: &str, url: &str, fields: &[(&str, &str)]) -> Page {
        self.go(Method::POST, Url::parse(url).unwrap(), Some(encoded(fields)), Some(&Url::parse(page).unwrap())).await
    }

    /// Presses the button with this text on the page, and follows redirects.
    pub(crate) async fn press(&mut self, page: &Page, button: &str) -> Page {
        self.press_with(page, button, &[]).await
    }

    /// Presses a button after filling in fields.
    pub(crate) async fn press_with(&mut self, page: &Page, button: &str, fill: &[(&str, &str)]) -> Page {
        let forms = page.forms();
        let found = forms.iter().find_map(|form| {
            let pressed = form.buttons.iter().find(|(_, _, text)| text == button)?;
            Some((form, pressed))
        });
        let (form, (name, value, _)) = found.unwrap_or_else(|| panic!("there is no button `{button}` on {page:?}"));
        let mut fields = form.fields.clone();
        for (name, value) in fill {
            fields.retain(|(known, _)| known != name);
            fields.push(((*name).to_owned(), (*value).to_owned()));
        }
        if !name.is_empty() {
            fields.push((name.clone(), value.clone()));
        }
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(&fields).finish();
        self.go(form.method.clone(), form.action.clone(), Some(body), Some(&page.url)).await
    }

    async fn go(&mut self, mut method: Method, mut url: Url, mut form: Option<String>, from: Option<&Url>) -> Page {
        for _ in 0..20 {
            let mut request = self.http.request(method.clone(), url.clone());
            let host = url.host_str().unwrap().to_owned();
            let cookies: Vec<String> =
                self.cookies.get(&host).into_iter().flatten().map(|(name, value)| format!("{name}={value}")).collect();
            if !cookies.is_empty() {
                request = request.header(header::COOKIE, cookies.join("; "));
            }
            if let Some(body) = form.take() {
                request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(body);
                if let Some(from) = from {
                    request = request.header(header::ORIGIN, from.origin().ascii_serialization());
                }
            }
            let response = request.send().await.unwrap_or_else(|error| panic!("{url}: {error}"));
            for cookie in response.headers().get_all(header::SET_COOKIE) {
                self.keep(&host, cookie.to_str().unwrap());
            }
            let (status, headers) = (response.status(), response.headers().clone());
            if let (true, Some(location)) = (status.is_redirection(), headers.get(header::LOCATION)) {
                url = url.join(location.to_str().unwrap()).unwrap();
                method = Method::GET;
                continue;
            }
            return Page { status, url, html: response.text().await.unwrap() };
        }
        panic!("too many redirects, at {url}");
    }

    fn keep(&mut self, host: &str, cookie: &str) {
        let mut parts = cookie.split(';');
        let (name, value) = parts.next().unwrap().split_once('=').unwrap();
        let over = parts.any(|part| part.trim().eq_ignore_ascii_case("max-age=0"));
        let cookies = self.cookies.entry(host.to_owned()).or_default();
        if over {
            cookies.remove(name.trim());
        } else {
            cookies.insert(name.trim().to_owned(), value.trim().to_owned());
        }
    }
}

impl Page {
    /// The text of the element with this id, without markup.
    pub(crate) fn element(&self, id: &str) -> String {
        let mark = format!(r#"id="{id}""#);
        let at = self.html.find(&mark).unwrap_or_else(|| panic!("there is no element `{id}` on {self:?}"));
        let begin = at + self.html[at..].find('>').unwrap() + 1;
        text_of(&self.html[begin..begin + self.html[begin..].find("</").unwrap()])
    }

    /// Where the link with this text leads.
    pub(crate) fn link(&self, words: &str) -> String {
        let links = tags(&self.html, "<a ").into_iter().zip(self.html.split("<a ").skip(1));
        let found = links.into_iter().find(|(_, rest)| {
            let inner = rest.split_once('>').map_or("", |(_, rest)| rest);
            text_of(inner.split("</a>").next().unwrap_or_default()) == words
        });
        let (head, _) = found.unwrap_or_else(|| panic!("there is no link `{words}` on {self:?}"));
        self.url.join(&attribute(head, "href").expect("a link leads somewhere")).unwrap().into()
    }

    /// The forms.
    pub(crate) fn forms(&self) -> Vec<Form> {
        let mut forms = Vec::new();
        let mut rest = self.html.as_str();
        while let Some(at) = rest.find("<form") {
            let end = at + rest[at..].find("</form>").expect("a form ends");
            forms.push(self.form(&rest[at..end]));
            rest = &rest[end..];
        }
        forms
    }

    fn form(&self, html: &str) -> Form {
        let head = tag(html);
        let method = attribute(head, "method").unwrap_or_else(|| "get".to_owned()).to_ascii_uppercase();
        let action = attribute(head, "action").unwrap_or_default();
        let mut fields = Vec::new();
        for input in tags(html, "<input") {
            let kind = attribute(input, "type").unwrap_or_default();
            let chosen = !matches!(kind.as_str(), "radio" | "checkbox") || input.contains(" checked");
            if let (true, Some(name)) = (chosen, attribute(input, "name")) {
                fields.push((name, attribute(input, "value").unwrap_or_default()));
            }
        }
        let mut buttons = Vec::new();
        let mut rest = html;
        while let Some(at) = rest.find("<button") {
            let head = tag(&rest[at..]);
            let end = at + rest[at..].find("</button>").expect("a button ends");
            let text = text_of(&rest[at + head.len()..end]);
            let sent = |name| attribute(head, name).unwrap_or_default();
            buttons.push((sent("name"), sent("value"), text));
            rest = &rest[end..];
        }
        Form { method: method.parse().unwrap(), action: self.url.join(&action).unwrap(), fields, buttons }
    }
}

fn encoded(fields: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

fn tag(html: &str) -> &str {
    &html[..=html.find('>').expect("a tag ends")]
}

fn tags<'a>(html: &'a str, begin: &str) -> Vec<&'a str> {
    html.match_indices(begin).map(|(at, _)| tag(&html[at..])).collect()
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let begin = format!(r#" {name}=""#);
    let rest = &tag[tag.find(&begin)? + begin.len()..];
    Some(unescape(&rest[..rest.find('"')?]))
}

fn text_of(html: &str) -> String {
    let mut text = String::new();
    let mut within = false;
    for c in html.chars() {
        match c {
            '<' => within = true,
            '>' => within = false,
            c if !within => text.push(c),
            _ => {}
        }
    }
    unescape(&text).trim().to_owned()
}

fn unescape(text: &str) -> String {
    let pairs = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#34;", "\""), ("&#39;", "'"), ("&#60;", "<"), ("&#62;", ">")];
    let text = pairs.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    text.replace("&#38;", "&").replace("&amp;", "&")
}
