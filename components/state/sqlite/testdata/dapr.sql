PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE metadata (
			key text NOT NULL PRIMARY KEY,
			value text NOT NULL
		);
INSERT INTO metadata VALUES('migrations','1');
CREATE TABLE state (
							key TEXT NOT NULL PRIMARY KEY,
							value TEXT NOT NULL,
							is_binary BOOLEAN NOT NULL,
							etag TEXT NOT NULL,
							expiration_time TIMESTAMP DEFAULT NULL,
							update_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
						);
INSERT INTO state VALUES('someapp||html','"\u003ca\u003e\u0026"',0,'f86fb77f-1237-4d63-8a43-000f9140b930',NULL,'2026-11-21 01:16:34');
INSERT INTO state VALUES('someapp||null','null',0,'ff3b1285-202c-4cd1-8675-ef7f7571595e',NULL,'2026-11-21 01:16:34');
INSERT INTO state VALUES('someapp||ttl','"expires"',0,'2cc8c7db-de9c-4da3-91c2-b71e8e21e2e5','2026-11-22 01:16:34','2026-11-21 01:16:34');
INSERT INTO state VALUES('someapp||text','"words"',0,'962ff1c6-f435-4d5f-9c32-0a8e615a0634',NULL,'2026-11-21 01:16:34');
INSERT INTO state VALUES('someapp||object','{"item":"pizza","nested":{"a":[1,2.5,null,true]},"qty":2}',0,'a69186bf-daac-4f9b-b9ce-175792c66df7',NULL,'2026-11-21 01:16:34');
INSERT INTO state VALUES('someapp||unicode','"žluťoučký 🐎"',0,'22bfd14e-616d-4251-9104-0347ed9d7644',NULL,'2026-11-21 01:16:34');
INSERT INTO state VALUES('someapp||string','"plain"',0,'868df11c-6f2c-4b7f-8235-b234920813f0',NULL,'2026-11-21 01:16:34');
INSERT INTO state VALUES('someapp||twice','2',0,'acfaacb9-b654-4f89-a6b7-07179ef8c52e',NULL,'2026-11-21 01:16:34');
INSERT INTO state VALUES('someapp||tx','{"t":1}',0,'65a7fe3f-462b-4045-8151-243d73d61f98',NULL,'2026-11-21 01:16:34');
COMMIT;
