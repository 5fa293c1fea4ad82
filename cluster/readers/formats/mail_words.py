"""Words by which mail programs announce quoted and forwarded mails, in the languages of LANGUAGES.

Source: the texts of Gmail, Outlook, Apple Mail and Thunderbird in these languages.
"""

import re

LANGUAGES = (
    "Arabic", "Bengali", "Chinese", "Czech", "Danish", "Dutch", "English", "Finnish", "French", "German", "Greek",
    "Hebrew", "Hindi", "Hungarian", "Indonesian", "Italian", "Japanese", "Korean", "Norwegian", "Persian", "Polish",
    "Portuguese", "Romanian", "Russian", "Slovak", "Spanish", "Swedish", "Thai", "Turkish", "Ukrainian", "Urdu",
    "Vietnamese",
)  # fmt: skip


def _any(words: str) -> str:
    """A pattern of the words between bars, the longest first, with any white space between two."""
    longest_first = sorted((one.strip() for one in words.split("|") if one.strip()), key=len, reverse=True)
    return "(?:" + "|".join(re.escape(one).replace(r"\ ", r"\s+") for one in longest_first) + ")"


def _words(words: str) -> frozenset[str]:
    """The words between bars, as of `plain`."""
    return frozenset(plain(one) for one in words.split("|") if one.strip())


def plain(text: str) -> str:
    """A text without what does not tell two words apart: case and the kind of white space."""
    return " ".join(text.casefold().split())


# What a line that announces a quote may begin with, as in `On Monday Ann wrote:`.
OPENING = _any(
    "On|Am|Le|El|Il|Il giorno|Op|Em|No dia|Den|Dnia|W dniu|Dne|Dňa|În|La data de|Στις|Pada|Pada tanggal|Vào|"
    "Vào lúc|Vào ngày|ในวันที่|เมื่อ|في|در|در تاریخ|בתאריך|ב-"
)

# Its verb. Those of the second list may stand within a word.
WROTE = (
    r"(?:(?<!\w)"
    + _any(
        "wrote|writes|schrieb|schreibt|a écrit|écrit|escribió|ha escrito|ha scritto|scrive|escreveu|schreef|"
        "skrev|napisał|napisała|napisał(a)|pisze|kirjoitti|napsal|napsala|napsal(a)|napsal/a|napísal|napísala|"
        "napísal(a)|ezt írta|írta|a scris|написал|написала|написал(а)|пишет|писал|писала|писал(а)|пише|написав|"
        "написав(ла)|έγραψε|yazdı|şunu yazdı|şunları yazdı|menulis|đã viết|viết"
    )
    + r"(?!\w)|"
    + _any(
        "写道|寫道|写到|のメッセージ|のメール|は書きました|さんが書きました|님이 작성|님이 쓴 글|"
        "님이 작성한 메시지|작성|เขียนว่า|เขียน|كتب|كتبت|كتبه|تمت كتابة ما يلي بواسطة|نوشت|نوشته است|כתב|כתבה|"
        "כתב/ה|כתב(ה)|ने लिखा|लिखा|লিখেছেন|লিখেছে|نے لکھا|لکھا"
    )
    + ")"
)

# Verbs that persons write above a quote. They count only above lines with >, since reports have them, too.
SAID = r"(?<!\w)" + _any(
    "said|says|sagte|meinte|a dit|dit|dijo|dice|ha detto|disse|zei|sa|sagde|powiedział|сказал|сказала"
)

ORIGINAL = _words(
    "Original Message|Original Mail|Original E-Mail|Original Appointment|Reply Message|Ursprüngliche Nachricht|"
    "Originalnachricht|Original-Nachricht|Ursprünglicher Termin|Message d'origine|Message d’origine|"
    "Message original|Message initial|Mensaje original|Messaggio originale|Mensagem original|"
    "Oorspronkelijk bericht|Origineel bericht|Wiadomość oryginalna|Oryginalna wiadomość|Исходное сообщение|"
    "Оригинальное сообщение|Первоначальное сообщение|Вихідне повідомлення|Оригінальне повідомлення|"
    "Первинне повідомлення|Orijinal Mesaj|Orijinal İleti|Özgün İleti|Özgün Mesaj|Ursprungligt meddelande|"
    "Originalmeddelande|Oprindelig meddelelse|Original meddelelse|Oprindelig besked|Opprinnelig melding|"
    "Original melding|Alkuperäinen viesti|Původní zpráva|Původní e-mail|Pôvodná správa|Eredeti üzenet|"
    "Mesaj original|Mesajul original|Αρχικό μήνυμα|原始邮件|原邮件|原始郵件|邮件原件|原始信件|元のメッセージ|"
    "オリジナルメッセージ|元メール|원본 메시지|원본 메일|원본 이메일|Thư gốc|Tin nhắn gốc|Pesan asli|"
    "Pesan orisinal|ข้อความต้นฉบับ|ข้อความเดิม|الرسالة الأصلية|رسالة أصلية|הודעה מקורית|پیام اصلی|मूल संदेश|"
    "মূল বার্তা|اصل پیغام"
)

FORWARDED = _words(
    "Forwarded message|Forwarded mail|Forwarded email|Forwarded by|Begin forwarded message|"
    "Start of forwarded message|Weitergeleitete Nachricht|Weitergeleitete E-Mail|Weitergeleitete Mail|"
    "Anfang der weitergeleiteten Nachricht|Anfang der weitergeleiteten E-Mail|"
    "Beginn der weitergeleiteten Nachricht|Message transféré|Message réexpédié|Courriel transféré|"
    "Début du message transféré|Début du message réexpédié|Mensaje reenviado|Correo reenviado|"
    "Inicio del mensaje reenviado|Messaggio inoltrato|Inizio messaggio inoltrato|"
    "Inizio del messaggio inoltrato|Mensagem encaminhada|Mensagem reencaminhada|Início da mensagem encaminhada|"
    "Início da mensagem reencaminhada|Doorgestuurd bericht|Doorgestuurde bericht|Begin doorgestuurd bericht|"
    "Przekazana wiadomość|Wiadomość przekazana|Wiadomość przekazana dalej|Treść przekazanej wiadomości|"
    "Początek przekazywanej wiadomości|Początek przekazanej wiadomości|Пересылаемое сообщение|"
    "Пересланное сообщение|Пересылаемое письмо|Перенаправленное сообщение|Переадресованное сообщение|"
    "Начало переадресованного сообщения|Начало пересылаемого сообщения|Переслане повідомлення|"
    "Перенаправлене повідомлення|Пересланий лист|Початок переадресованого повідомлення|"
    "Початок пересланого повідомлення|İletilmiş mesaj|İletilen mesaj|İletilen ileti|Yönlendirilmiş ileti|"
    "Yönlendirilen ileti|Yönlendirilmiş mesaj|Yönlendirilen mesaj|Başlangıç iletilen mesaj|"
    "Vidarebefordrat meddelande|Vidarebefordrat brev|Vidarebefordrat mejl|Vidarebefordrat mail|"
    "Videresendt meddelelse|Videresendt besked|Videresendt mail|Start på videresendt besked|"
    "Videresendt melding|Videresendt e-post|Start på videresendt melding|Videresend melding|Välitetty viesti|"
    "Edelleenlähetetty viesti|Välitetty viesti alkaa|Přeposlaná zpráva|Přeposlaný e-mail|"
    "Začátek přeposlané zprávy|Preposlaná správa|Začiatok preposlanej správy|Továbbított üzenet|"
    "Továbbított levél|Továbbított üzenet kezdete|Mesaj redirecționat|Mesaj redirecţionat|"
    "Mesaj transmis mai departe|Începutul mesajului redirecționat|Προωθημένο μήνυμα|Αρχή προωθημένου μηνύματος|"
    "转发的邮件|转发邮件|转发信息|转发邮件信息|下面是被转发的邮件|开始转发的邮件|以下是转发的邮件|轉寄郵件|"
    "轉寄的郵件|轉寄的訊息|轉發郵件|開始轉寄郵件|以下是轉寄的郵件|転送メッセージ|転送メール|"
    "転送されたメッセージ|転送されたメール|전달된 메시지|전달된 메일|전달된 이메일|전달한 메시지|"
    "Thư đã chuyển tiếp|Thư được chuyển tiếp|Thư chuyển tiếp|Tin nhắn đã chuyển tiếp|"
    "Bắt đầu thư được chuyển tiếp|Pesan terusan|Pesan yang diteruskan|Pesan diteruskan|Mulai pesan terusan|"
    "ข้อความที่ส่งต่อ|เริ่มข้อความที่ส่งต่อ|الرسالة المعاد توجيهها|رسالة معاد توجيهها|رسالة مُعاد توجيهها|رسالة محولة|"
    "بداية الرسالة المعاد توجيهها|הודעה שהועברה|תחילת ההודעה שהועברה|پیام هدایت‌شده|پیام هدایت شده|"
    "پیام فوروارد شده|پیام ارسال‌شده|अग्रेषित संदेश|फ़ॉरवर्ड किया गया संदेश|फॉरवर्ड किया गया संदेश|"
    "ফরোয়ার্ড করা বার্তা|ফরোয়ার্ড করা মেসেজ|آگے بھیجا گیا پیغام"
)

# Labels of the header lines above a quoted or forwarded mail.
FROM = _words(
    "From|Von|De|Da|Van|Od|От|От кого|Отправитель|Від|Від кого|Kimden|Gönderen|Från|Fra|Lähettäjä|Feladó|De la|"
    "Expeditor|Από|Αποστολέας|发件人|寄件者|寄件人|發件人|差出人|送信者|送信元|보낸 사람|보낸사람|발신|발신자|"
    "Từ|Người gửi|Dari|Pengirim|จาก|من|מאת|از|فرستنده|प्रेषक|से|থেকে|প্রেরক|منجانب"
)
SENT = _words(
    "Sent|Date|Date/Time|Gesendet|Gesendet am|Datum|Envoyé|Envoyé le|Enviado|Enviado el|Enviado em|Enviada em|"
    "Enviada|Fecha|Data|Inviato|Data invio|Verzonden|Wysłano|Wysłane|Data wysłania|Отправлено|Дата|"
    "Дата отправки|Надіслано|Відправлено|Gönderildi|Gönderme Tarihi|Gönderilme Tarihi|Gönderim tarihi|Tarih|"
    "Skickat|Sendt|Dato|Lähetetty|Päivämäärä|Päiväys|Pvm|Odesláno|Odoslané|Dátum|Küldve|Elküldve|Küldés ideje|"
    "Trimis|Στάλθηκε|Εστάλη|Απεσταλμένα|Ημερομηνία|发送时间|发送日期|日期|时间|寄件日期|傳送時間|傳送日期|"
    "發送時間|時間|送信日時|送信日|日付|日時|보낸 날짜|보낸날짜|보낸 시간|날짜|날짜/시간|Đã gửi|Ngày gửi|Ngày|"
    "Gửi|Gửi lúc|Dikirim|Tanggal|ส่ง|ส่งเมื่อ|วันที่|تاريخ الإرسال|أُرسلت|أرسلت|التاريخ|تاريخ|נשלח|תאריך|ارسال شده|"
    "تاریخ|भेजा गया|दिनांक|तारीख|প্রেরিত|তারিখ|بھیجا گیا"
)
TO = _words(
    "To|An|À|A|Para|Aan|Do|Komu|Кому|Получатель|Kime|Alıcı|Till|Til|Vastaanottaja|Címzett|Către|Προς|收件人|"
    "收件者|宛先|받는 사람|받는사람|수신|수신자|Đến|Tới|Người nhận|Kepada|Ke|Untuk|ถึง|إلى|אל|به|गیرنده|"
    "गیرنده‌|گیرنده|प्रति|को|প্রতি|প্রাপক|بنام"
)
CC = _words(
    "Cc|CC|Bcc|Kopie|Kopie an|Copie|Copie à|Copia|CCN|DW|Копия|Копія|Bilgi|Kopia|Kopi|Kopio|Kópia|"
    "Másolatot kap|Másolat|Copie către|Κοιν.|Κοινοποίηση|抄送|副本|副本抄送|参照|참조|Đồng gửi|Tembusan|สำเนา|"
    "สำเนาถึง|نسخة|نسخة إلى|עותק|רونوشت|رونوشت|प्रतिलिपि|অনুলিপি|Reply-To|Antwort an|Répondre à|Responder a|"
    "Rispondi a|Importance|Wichtigkeit|Importancia|Priority|Attachments|Anlagen|Organization|Organisation"
)
SUBJECT = _words(
    "Subject|Betreff|Objet|Sujet|Asunto|Oggetto|Assunto|Onderwerp|Temat|Тема|Konu|Ämne|Emne|Aihe|Předmět|"
    "Predmet|Tárgy|Subiect|Θέμα|主题|主旨|主題|件名|제목|Chủ đề|Tiêu đề|Subjek|Perihal|เรื่อง|หัวเรื่อง|الموضوع|"
    "موضوع|נושא|विषय|বিষয়"
)

# What the subject of a forwarded mail begins with. `VS` is one in Danish and Norwegian, and a reply in Finnish.
FORWARD_PREFIX = _words(
    "FW|FWD|WG|TR|RV|I|ENC|VB|VL|FS|Doorst|PD|İLT|ILT|TRS|CT|YML|ΠΡΘ|Továbbítás|Továb|Пересл|Пер|转发|轉寄|"
    "轉發|转寄|転送|전달|הועבר|إعادة توجيه|ارجاع|अग्रेषित|ส่งต่อ"
)
NORDIC_FORWARD_PREFIX, NORDIC_FROM = "vs", "fra"

# What the subject of an automatic reply begins with; read beside `Precedence: bulk` alone.
AUTOMATIC_SUBJECT = _words(
    "Automatic reply|Auto reply|Auto-reply|Autoreply|Auto response|Auto|Out of office|Out of the office|OOO|"
    "Vacation|Automatische Antwort|Abwesenheitsnotiz|Abwesend|Réponse automatique|Absence|Absent|"
    "Respuesta automática|Fuera de la oficina|Risposta automatica|Fuori sede|Resposta automática|"
    "Ausência temporária|Automatisch antwoord|Afwezig|Automatyczna odpowiedź|Автоматический ответ|Автоответ|"
    "Автоматична відповідь|Otomatik yanıt|Autosvar|Automaattinen vastaus|Automatická odpověď|"
    "Automatická odpoveď|Automatikus válasz|Răspuns automat|Αυτόματη απάντηση|自动回复|自動回覆|自動応答|"
    "自動返信|자동 회신|자동 응답|Trả lời tự động|Balasan otomatis|ตอบกลับอัตโนมัติ|رد تلقائي|תגובה אוטומטית|"
    "پاسخ خودکار|स्वचालित उत्तर"
)
