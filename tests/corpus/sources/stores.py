"""The few requests of S3 and of Google Cloud Storage that reading needs, answered from a dict on loopback."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from loopback import Handler

Objects = dict[str, bytes]
TIME = "2024-05-06T07:08:09.000Z"


def s3(bucket: str, objects: Objects) -> Callable[[Handler], None]:
    """Answers HEAD and GET of objects (with ranges) and ListObjectsV2."""

    def answer(handler: Handler) -> None:
        parts = urlsplit(handler.path)
        name, _, key = unquote(parts.path).lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if name != bucket:
            handler.answer(404, {"Content-Type": "application/xml"}, b"<Error><Code>NoSuchBucket</Code></Error>")
        elif not key and handler.command == "GET":
            handler.answer(200, {"Content-Type": "application/xml"}, _s3_listing(bucket, objects, query))
        elif not key:
            handler.answer(200, {}, b"")
        elif key in objects:
            _content(handler, objects[key])
        else:
            handler.answer(404, {"Content-Type": "application/xml"}, b"<Error><Code>NoSuchKey</Code></Error>")

    return answer


def gcs(bucket: str, objects: Objects) -> Callable[[Handler], None]:
    """Answers the JSON interface: metadata, lists and contents of objects."""

    def answer(handler: Handler) -> None:
        parts = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        path = parts.path.replace("/download", "", 1)
        root = f"/storage/v1/b/{bucket}"
        key = unquote(path.removeprefix(root + "/o/")) if path.startswith(root + "/o/") else None
        if path.startswith(f"/{bucket}/"):  # the XML interface, by which contents may also be read
            key, query = unquote(path.removeprefix(f"/{bucket}/")), {"alt": "media"}
        if key is not None and key in objects and query.get("alt") == "media":
            _content(handler, objects[key])
            return
        body: object
        if key is not None and key in objects:
            body = _gcs_object(bucket, key, objects[key])
        elif path == root:
            body = {"kind": "storage#bucket", "name": bucket, "id": bucket}
        elif path == root + "/o":
            prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
            found = [name for name in sorted(objects) if name.startswith(prefix)]
            deeper = {
                prefix + name[len(prefix) :].partition("/")[0] + "/" for name in found if "/" in name[len(prefix) :]
            }
            if delimiter:
                found = [name for name in found if "/" not in name[len(prefix) :]]
            items = [_gcs_object(bucket, name, objects[name]) for name in found]
            body = {"kind": "storage#objects", "items": items, "prefixes": sorted(deeper) if delimiter else []}
        else:
            handler.answer(404, {"Content-Type": "application/json"}, b'{"error":{"code":404,"message":"Not Found"}}')
            return
        handler.answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    return answer


def _content(handler: Handler, content: bytes) -> None:
    headers = {"Content-Type": "binary/octet-stream", "Last-Modified": "Mon, 06 May 2024 07:08:09 GMT"}
    headers |= {"ETag": '"e"', "x-goog-generation": "1"}
    asked = handler.headers.get("Range")
    if asked:
        first, _, last = asked.removeprefix("bytes=").partition("-")
        end = min(int(last) + 1 if last else len(content), len(content))
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
        handler.answer(206, headers, content[int(first) : end])
    else:
        handler.answer(200, headers, content)


def _s3_listing(bucket: str, objects: Objects, query: dict[str, str]) -> bytes:
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    after = query.get("continuation-token", "")
    most = min(int(query.get("max-keys", "1000")), 2)  # small pages, so that going on is tested too
    contents, prefixes, last, truncated = "", [], "", False
    for key in sorted(objects):
        if not key.startswith(prefix) or key <= after:
            continue
        rest = key[len(prefix) :]
        group = prefix + rest.partition(delimiter)[0] + delimiter if delimiter and delimiter in rest else None
        if group is not None and group in prefixes:
            last = key
            continue
        if contents.count("<Key>") + len(prefixes) >= most:
            truncated = True
            break
        last = key
        if group is not None:
            prefixes.append(group)
        else:
            contents += (
                f"<Contents><Key>{escape(key)}</Key><LastModified>{TIME}</LastModified><ETag>&quot;e&quot;</ETag>"
                f"<Size>{len(objects[key])}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            )
    common = "".join(f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>" for each in prefixes)
    token = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>" if truncated else ""
    return (
        f'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{bucket}</Name>'
        f"<Prefix>{escape(prefix)}</Prefix><KeyCount>{contents.count('<Key>')}</KeyCount><MaxKeys>{most}</MaxKeys>"
        f"<IsTruncated>{str(truncated).lower()}</IsTruncated>{token}{contents}{common}</ListBucketResult>"
    ).encode()


def _gcs_object(bucket: str, key: str, content: bytes) -> dict[str, str]:
    return {
        "kind": "storage#object",
        "id": f"{bucket}/{key}/1",
        "selfLink": f"/storage/v1/b/{bucket}/o/{quote(key, safe='')}",
        "name": key,
        "bucket": bucket,
        "generation": "1",
        "metageneration": "1",
        "size": str(len(content)),
        "timeCreated": TIME,
        "updated": TIME,
    }
