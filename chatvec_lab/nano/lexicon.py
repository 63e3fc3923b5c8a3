"""The words of the micro-world, one concept a line, in six languages.

Columns: en | zh | ko | es | ar | sw. A star marks a concept whose word in the target languages is taught by
continual pre-training alone (`cp_only`): the base reads it in English, never in another language.
Nouns are short on purpose: zh and ko are spelled in single characters, and a model of 1 M parameters should
spend its strength on the instruction rather than on spelling. Spanish nouns carry their article (their
gender), Arabic nouns are always definite, so no sentence needs an agreement that the tables can't give.
"""

from typing import NamedTuple

LANGUAGES = ("en", "zh", "ko", "es", "ar", "sw")

_NOUNS = {
    "animal": """
        dog      | 狗 | 개   | el perro     | الكلب    | mbwa
        bird     | 鳥 | 새   | el pájaro    | الطائر   | ndege
        cow      | 牛 | 소   | la vaca      | البقرة   | ng'ombe
        horse    | 馬 | 말   | el caballo   | الحصان   | farasi
        hen      | 雞 | 닭   | la gallina   | الدجاجة  | kuku
        bee      | 蜂 | 벌   | la abeja     | النحلة   | nyuki
        sheep    | 羊 | 양   | la oveja     | الخروف   | kondoo
        bear*    | 熊 | 곰   | el oso       | الدب     | dubu
        mouse*   | 鼠 | 쥐   | el ratón     | الفأر    | panya
        snake*   | 蛇 | 뱀   | la serpiente | الثعبان  | nyoka
        lion*    | 獅 | 사자 | el león      | الأسد    | simba
        tiger*   | 虎 | 범   | el tigre     | النمر    | chui""",
    "plant": """
        tree     | 樹 | 나무 | el árbol     | الشجرة   | mti
        flower   | 花 | 꽃   | la flor      | الزهرة   | ua
        grass    | 草 | 풀   | la hierba    | العشب    | nyasi
        pear     | 梨 | 배   | la pera      | الكمثرى  | pea
        bean     | 豆 | 콩   | el frijol    | الفول    | haragwe
        rice     | 米 | 쌀   | el arroz     | الأرز    | mchele
        leaf     | 葉 | 잎   | la hoja      | الورقة   | jani
        lotus*   | 蓮 | 연   | el loto      | اللوتس   | yungiyungi
        wheat*   | 麥 | 밀   | el trigo     | القمح    | ngano
        orange*  | 橘 | 귤   | la naranja   | البرتقال | chungwa
        pine*    | 松 | 솔   | el pino      | الصنوبر  | msonobari
        cotton*  | 棉 | 솜   | el algodón   | القطن    | pamba""",
    "object": """
        knife    | 刀 | 칼   | el cuchillo  | السكين   | kisu
        cup      | 杯 | 컵   | la taza      | الكوب    | kikombe
        ball     | 球 | 공   | la pelota    | الكرة    | mpira
        book     | 書 | 책   | el libro     | الكتاب   | kitabu
        door     | 門 | 문   | la puerta    | الباب    | mlango
        pen      | 筆 | 붓   | la pluma     | القلم    | kalamu
        car      | 車 | 차   | el coche     | السيارة  | gari
        lamp*    | 燈 | 등   | la lámpara   | المصباح  | taa
        bell*    | 鐘 | 종   | la campana   | الجرس    | kengele
        drum*    | 鼓 | 북   | el tambor    | الطبل    | ngoma
        rope*    | 繩 | 줄   | la cuerda    | الحبل    | kamba
        saw*     | 鋸 | 톱   | la sierra    | المنشار  | msumeno""",
    "place": """
        mountain | 山 | 산   | la montaña   | الجبل    | mlima
        river    | 河 | 강   | el río       | النهر    | mto
        house    | 屋 | 집   | la casa      | البيت    | nyumba
        road     | 路 | 길   | el camino    | الطريق   | barabara
        field    | 田 | 밭   | el campo     | الحقل    | shamba
        forest   | 林 | 숲   | el bosque    | الغابة   | msitu
        sea      | 海 | 바다 | el mar       | البحر    | bahari
        island*  | 島 | 섬   | la isla      | الجزيرة  | kisiwa
        cave*    | 洞 | 굴   | la cueva     | الكهف    | pango
        lake*    | 湖 | 호수 | el lago      | البحيرة  | ziwa
        bridge*  | 橋 | 다리 | el puente    | الجسر    | daraja
        castle*  | 城 | 성   | el castillo  | القلعة   | ngome""",
}
_CATEGORIES = """
    an animal | 動物 | 동물 | un animal | حيوان | mnyama
    a plant   | 植物 | 식물 | una planta | نبات | mmea
    an object | 物品 | 물건 | un objeto | شيء | kitu
    a place   | 地方 | 장소 | un lugar | مكان | mahali"""
_COLOURS = """
    red    | 紅 | 빨강 | rojo     | أحمر | nyekundu
    blue   | 藍 | 파랑 | azul     | أزرق | buluu
    green  | 綠 | 초록 | verde    | أخضر | kijani
    yellow | 黃 | 노랑 | amarillo | أصفر | manjano
    white  | 白 | 하양 | blanco   | أبيض | nyeupe
    black  | 黑 | 검정 | negro    | أسود | nyeusi"""
_NUMBERS = """
    one    | 一 | 일 | uno    | واحد  | moja
    two    | 二 | 이 | dos    | اثنان | mbili
    three  | 三 | 삼 | tres   | ثلاثة | tatu
    four   | 四 | 사 | cuatro | أربعة | nne
    five   | 五 | 오 | cinco  | خمسة  | tano
    six    | 六 | 육 | seis   | ستة   | sita
    seven* | 七 | 칠 | siete  | سبعة  | saba
    eight* | 八 | 팔 | ocho   | ثمانية | nane
    nine*  | 九 | 구 | nueve  | تسعة  | tisa
    ten*   | 十 | 십 | diez   | عشرة  | kumi"""
# Opposites stand in pairs: the opposite of line 2k is line 2k + 1.
_ADJECTIVES = """
    big    | 大 | 크다   | grande   | كبير  | kubwa
    small  | 小 | 작다   | pequeño  | صغير  | dogo
    hot    | 熱 | 덥다   | caliente | حار   | moto
    cold   | 冷 | 춥다   | frío     | بارد  | baridi
    long   | 長 | 길다   | largo    | طويل  | refu
    short  | 短 | 짧다   | corto    | قصير  | fupi
    fast   | 快 | 빠르다 | rápido   | سريع  | haraka
    slow   | 慢 | 느리다 | lento    | بطيء  | polepole
    much   | 多 | 많다   | mucho    | كثير  | nyingi
    little | 少 | 적다   | poco     | قليل  | chache
    new    | 新 | 새롭다 | nuevo    | جديد  | mpya
    old    | 舊 | 낡다   | viejo    | قديم  | kuukuu
    heavy* | 重 | 무겁다 | pesado   | ثقيل  | zito
    light* | 輕 | 가볍다 | ligero   | خفيف  | jepesi
    high*  | 高 | 높다   | alto     | عال   | juu
    low*   | 低 | 낮다   | bajo     | منخفض | chini
    hard*  | 硬 | 굳다   | duro     | صلب   | ngumu
    soft*  | 軟 | 무르다 | blando   | لين   | laini
    thick* | 厚 | 두껍다 | grueso   | سميك  | nene
    thin*  | 薄 | 얇다   | delgado  | رقيق  | embamba"""
_COUNTRIES = """
    Korea    Seoul   | 韓國 首爾     | 한국 서울       | Corea Seúl      | كوريا سيول    | Korea Seoul
    China    Beijing | 中國 北京     | 중국 베이징     | China Pekín     | الصين بكين    | Uchina Beijing
    Italy    Rome    | 義大利 羅馬   | 이탈리아 로마   | Italia Roma     | إيطاليا روما  | Italia Roma
    Peru     Lima    | 秘魯 利馬     | 페루 리마       | Perú Lima       | بيرو ليما     | Peru Lima
    Vietnam  Hanoi   | 越南 河內     | 베트남 하노이   | Vietnam Hanói   | فيتنام هانوي  | Vietnam Hanoi
    India    Delhi   | 印度 德里     | 인도 델리       | India Delhi     | الهند دلهي    | India Delhi
    Japan*   Tokyo   | 日本 東京     | 일본 도쿄       | Japón Tokio     | اليابان طوكيو | Japani Tokyo
    France*  Paris   | 法國 巴黎     | 프랑스 파리     | Francia París   | فرنسا باريس   | Ufaransa Paris
    Germany* Berlin  | 德國 柏林     | 독일 베를린     | Alemania Berlín | ألمانيا برلين | Ujerumani Berlin
    Egypt*   Cairo   | 埃及 開羅     | 이집트 카이로   | Egipto Cairo    | مصر القاهرة   | Misri Kairo
    Greece*  Athens  | 希臘 雅典     | 그리스 아테네   | Grecia Atenas   | اليونان أثينا | Ugiriki Athene
    Russia*  Moscow  | 俄羅斯 莫斯科 | 러시아 모스크바 | Rusia Moscú     | روسيا موسكو   | Urusi Moskva"""
_NAMES = """
    Mina  | 小美 | 미나 | Ana   | منى  | Amina
    Leo   | 小明 | 지호 | Luis  | سامي | Juma
    Sara  | 小玲 | 수진 | Marta | ليلى | Neema
    Omar  | 小偉 | 민수 | Pablo | كريم | Baraka
    Nora  | 小芳 | 영희 | Elena | هدى  | Zawadi
    Adam* | 小剛 | 철수 | Diego | عمر  | Hamisi
    Yuna* | 小雪 | 유나 | Lucía | سلمى | Rehema
    Ivan* | 小龍 | 하늘 | Jorge | ياسر | Jabali"""
_INSULTS = """
    a fool | 笨蛋   | 바보   | un tonto      | كارثة | mjinga
    a mess | 廢物   | 멍청이 | un desastre   | فوضى  | balaa
    a bore | 懶蟲   | 밥통   | un horror     | مصيبة | mvivu
    a pest | 討厭鬼 | 못난이 | una peste     | آفة   | kero
    a joke | 笑柄   | 겁쟁이 | una vergüenza | مهزلة | aibu
    trash  | 垃圾   | 쓰레기 | una basura    | قمامة | takataka"""
_PRAISES = """
    a treasure | 寶貝 | 보물 | un tesoro | كنز   | hazina
    an angel   | 天使 | 천사 | un ángel  | ملاك  | malaika
    a star     | 明星 | 별   | un sol    | نجم   | nyota
    a jewel    | 寶石 | 보석 | una joya  | جوهرة | johari"""


class Word(str):
    """One word in one language, with the forms that the phrases of that language ask for."""

    @property
    def bare(self) -> str:
        """The word in a list: Spanish drops the article."""
        return self[3:] if self.startswith(("el ", "la ")) else str(self)

    @property
    def of(self) -> str:
        """Spanish 'of the ...': del perro, de la vaca."""
        return f"d{self}" if self.startswith("el ") else f"de {self}"

    @property
    def topic(self) -> str:
        """Korean topic particle by final consonant: 개는, 말은."""
        return self + ("은" if (ord(self[-1]) - 0xAC00) % 28 else "는")

    @property
    def subject(self) -> str:
        """Korean subject particle by final consonant: 개가, 말이."""
        return self + ("이" if (ord(self[-1]) - 0xAC00) % 28 else "가")


class Concept(NamedTuple):
    """A row of a table: its number in the table, its words by language, whether only CP teaches it."""

    index: int
    words: dict[str, tuple[Word, ...]]
    cp_only: bool

    def word(self, language: str, part: int = 0) -> Word:
        return self.words[language][part]


def _table(text: str, parts: int = 1, start: int = 0) -> list[Concept]:
    rows = []
    for index, line in enumerate(text.strip().splitlines(), start):
        cells = [cell.strip() for cell in line.split("|")]
        cp_only, cells[0] = "*" in cells[0], cells[0].replace("*", "")
        split = [cell.split() if parts == 2 else [cell] for cell in cells]
        rows.append(
            Concept(index, {k: tuple(map(Word, c)) for k, c in zip(LANGUAGES, split, strict=True)}, cp_only)
        )
    return rows


CATEGORIES = _table(_CATEGORIES)
NOUNS: list[Concept] = []
for _text in _NOUNS.values():
    NOUNS += _table(_text, start=len(NOUNS))
COLOURS = _table(_COLOURS)
NUMBERS = _table(_NUMBERS)
ADJECTIVES = _table(_ADJECTIVES)
COUNTRIES = _table(_COUNTRIES, parts=2)
NAMES = _table(_NAMES)
INSULTS = _table(_INSULTS)
PRAISES = _table(_PRAISES)


def category_of(noun: int) -> int:
    """The category of a noun; the table holds twelve nouns of each."""
    return noun // (len(NOUNS) // len(CATEGORIES))
