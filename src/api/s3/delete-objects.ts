/** DeleteObjects: up to a thousand keys in one request, each with an outcome of its own. */
import type { S3Call } from './call.ts';
import { readShortPayload } from './payload.ts';
import { S3Error } from './s3-error.ts';
import { element, readXml, S3_NAMESPACE, type Xml, xmlDocument } from './xml.ts';

const MAX_KEYS = 1000;
/** A thousand keys of 1024 bytes, each written as a reference of six characters. */
const MAX_BODY_BYTES = 8 * 1024 * 1024;

export async function deleteObjects(call: S3Call): Promise<void> {
  const { request, signed, store, bucket, send } = call;
  await store.bucket(bucket);
  const { keys, isQuiet } = readRequest(await readShortPayload(request, signed, { maxBytes: MAX_BODY_BYTES }));
  const parts: Xml[] = [];
  for (const key of keys) {
    if (!call.isAllowed('s3:DeleteObject', { bucket, key })) {
      const why = [element('Key', key), element('Code', 'AccessDenied'), element('Message', 'Access Denied')];
      parts.push(element('Error', why));
      continue;
    }
    await store.delete(bucket, key);
    if (!isQuiet) parts.push(element('Deleted', [element('Key', key)]));
  }
  send(200, {}, xmlDocument('DeleteResult', parts, S3_NAMESPACE));
}

function readRequest(text: string): { keys: string[]; isQuiet: boolean } {
  const root = readXml(text);
  const objects = root?.children.filter((child) => child.name === 'Object') ?? [];
  if (root?.name !== 'Delete' || objects.length === 0 || objects.length > MAX_KEYS) throw malformedXml();
  const keys = objects.map(({ children }) => {
    const version = children.find((child) => child.name === 'VersionId')?.text;
    if (version !== undefined && version !== 'null') {
      throw new S3Error('NotImplemented', 'This object store keeps no versions.');
    }
    const key = children.find((child) => child.name === 'Key')?.text;
    if (key === undefined || key === '') throw malformedXml();
    return key;
  });
  return { keys, isQuiet: root.children.some((child) => child.name === 'Quiet' && child.text === 'true') };
}

export function malformedXml(): S3Error {
  return new S3Error(
    'MalformedXML',
    'The XML you provided was not well-formed or did not validate against our published schema',
  );
}
