filedesc://records.arc 192.0.2.1 20090102030405 text/plain 68
1 0 By hand
URL IP-address Archive-date Content-type Archive-length

http://example.org/mill 192.0.2.1 20090102030405 text/html 414
HTTP/1.1 200 OK
Content-Type: text/html; charset=utf-8

<!DOCTYPE html>
<html lang="en"><head><title>Mill</title></head>
<body><nav><a href="/">Home</a></nav><article>
<p>The mill stands at the river, and whoever comes by can hear its wheel turn from early morning until the evening, because the miller of this village never rests while there is grain to grind and water in the river.</p>
</article></body></html>

http://example.org/gone 192.0.2.1 20090102030405 text/html 447
HTTP/1.1 404 Not Found
Content-Type: text/html; charset=utf-8

<!DOCTYPE html>
<html lang="en"><head><title>Page that is gone</title></head>
<body><nav><a href="/">Home</a></nav><article>
<p>The page that is gone stands at the river, and whoever comes by can hear its wheel turn from early morning until the evening, because the miller of this village never rests while there is grain to grind and water in the river.</p>
</article></body></html>

http://example.org/wheel.gif 192.0.2.1 20090102030405 image/gif 47
HTTP/1.1 200 OK
Content-Type: image/gif

GIF89a
http://example.org/a page with spaces 192.0.2.1 20090102030405 text/html 416
HTTP/1.1 200 OK
Content-Type: text/html; charset=utf-8

<!DOCTYPE html>
<html lang="en"><head><title>Ferry</title></head>
<body><nav><a href="/">Home</a></nav><article>
<p>The ferry stands at the river, and whoever comes by can hear its wheel turn from early morning until the evening, because the miller of this village never rests while there is grain to grind and water in the river.</p>
</article></body></html>

http://example.org/tower 192.0.2.1 20090102030405 text/html 200 ABCDEF - 123 a.arc 416
HTTP/1.1 200 OK
Content-Type: text/html; charset=utf-8

<!DOCTYPE html>
<html lang="en"><head><title>Tower</title></head>
<body><nav><a href="/">Home</a></nav><article>
<p>The tower stands at the river, and whoever comes by can hear its wheel turn from early morning until the evening, because the miller of this village never rests while there is grain to grind and water in the river.</p>
</article></body></html>

dns:example.org 192.0.2.1 20090102030405 text/dns 41
20090102
example.org. 300 IN A 192.0.2.1

http://example.org/plain 192.0.2.1 20090102030405 text/html 362
<!DOCTYPE html>
<html lang="en"><head><title>Bridge</title></head>
<body><nav><a href="/">Home</a></nav><article>
<p>The bridge stands at the river, and whoever comes by can hear its wheel turn from early morning until the evening, because the miller of this village never rests while there is grain to grind and water in the river.</p>
</article></body></html>

http://example.org/empty 192.0.2.1 20090102030405 text/html 82
HTTP/1.1 200 OK
Content-Type: text/html; charset=utf-8

<html><body></body></html>
